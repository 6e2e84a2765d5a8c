//! How glibc's allocator is set up: with as many arenas as there are cores, two at least, where it would have eight times as
//! many, and with what is large mapped by itself. Who has said otherwise (`MALLOC_ARENA_MAX`, `MALLOC_MMAP_THRESHOLD_`) is obeyed.
//!
//! Memory that is freed stays with the arena that it came from. A command that reads from afar has many threads, most of which
//! wait; with an arena for each of them a restore of 0.6 GB from S3 took 139 MiB instead of 101.
//!
//! The system gets back at once what was mapped by itself. glibc begins with 128 KiB, and takes for small what was once freed,
//! up to 32 MiB: then packs and segments lie among what is really small, and keep its arenas large. A first backup of a million
//! files took 136 MiB instead of 117. What is needed again soon is kept by those who need it: memory that is mapped anew has to be
//! cleared, page by page.

/// What is so large is mapped by itself: packs and most segments. With 128 KiB a restore took 5 % more of the processor, for parts
/// of packs that were read.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED: i32 = 2 << 20;

/// To be called before there are threads. That it cannot be set costs memory, no more.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the allocator's settings are a call of the C library's")]
pub fn set_up() {
    let set = |name: &str, parameter, value| {
        if std::env::var_os(name).is_none() {
            // SAFETY: mallopt takes two numbers and no memory of ours. It is not to run beside other calls of the
            // allocator, and this is the only thread.
            unsafe {
                libc::mallopt(parameter, value);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    set("MALLOC_ARENA_MAX", libc::M_ARENA_MAX, i32::try_from(cores).unwrap_or(i32::MAX));
    set("MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, MAPPED);
    // Which would follow the other one by itself, if that were not set.
    set("MALLOC_TRIM_THRESHOLD_", libc::M_TRIM_THRESHOLD, 2 * MAPPED);
}

/// Other allocators are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn set_up() {}
