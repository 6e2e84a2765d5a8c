//! What is told while a verb works, and the way a person stops it: bars at a terminal, lines elsewhere,
//! JSON for programs.

use std::io;
use std::io::Write;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aumbry::clock::Clock;
use aumbry::clock::SystemClock;
use aumbry::monitor::Monitor;
use aumbry::monitor::Phase;
use aumbry::monitor::Problem;
use aumbry::monitor::Progress;
use aumbry::tree::path::Printable;
use aumbry::units::bytes::{format_bytes, format_rate};
use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;
use serde_json::Value;
use serde_json::json;

use crate::output::Output;
use crate::output::Style;

/// How often a bar is given a new file's name, in milliseconds: every name would cost more than it tells.
const NAME_INTERVAL: u64 = 100;
/// How often a program is told how far things are, in milliseconds.
const STATUS_INTERVAL: u64 = 500;
/// Milliseconds between lines where there is no terminal: what is over sooner leaves no line in a log.
const LINE_INTERVAL: u64 = 10_000;

static STOPPING: AtomicBool = AtomicBool::new(false);

/// From now on, the first Ctrl-C (or SIGTERM) asks the verb to stop, and the second ends the process.
/// Before this, there is nothing to end in order.
pub fn stop_when_asked() {
    // It fails when it was called before, and then there is nothing to do.
    let _ = ctrlc::set_handler(|| {
        if STOPPING.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        let _ = writeln!(io::stderr(), "\nstopping; press again to end at once");
    });
}

/// Whether a person asked to stop.
pub fn is_stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// A person looks at a terminal.
    Bar,
    /// Nobody looks just now: only what matters later.
    Lines,
    /// A program reads.
    Json,
    /// Only problems.
    Quiet,
}

/// The one bar of a process, not shown yet: all monitors share it, so that none writes across another's.
pub fn hidden_bar() -> ProgressBar {
    ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
}

/// Tells progress and problems in the manner that fits.
pub struct ProgressMonitor {
    manner: Manner,
    tells_status: bool,
    verbosity: u8,
    style: Style,
    clock: SystemClock,
    bar: ProgressBar,
    phase: Mutex<Option<Phase>>,
    expected_files: AtomicU64,
    expected_bytes: AtomicU64,
    done_files: AtomicU64,
    done_bytes: AtomicU64,
    problems: AtomicU64,
    current: Mutex<String>,
    last_told: AtomicU64,
}

impl ProgressMonitor {
    /// A monitor in the manner that the output has.
    pub fn new(output: &Output, bar: ProgressBar) -> Self {
        let manner = match output {
            _ if output.is_json() => Manner::Json,
            _ if output.is_quiet() => Manner::Quiet,
            _ if output.error_terminal() => Manner::Bar,
            _ => Manner::Lines,
        };
        ProgressMonitor {
            manner,
            tells_status: false,
            verbosity: output.verbosity(),
            style: output.error_style(),
            clock: SystemClock::new(),
            bar,
            phase: Mutex::new(None),
            expected_files: AtomicU64::new(0),
            expected_bytes: AtomicU64::new(0),
            done_files: AtomicU64::new(0),
            done_bytes: AtomicU64::new(0),
            problems: AtomicU64::new(0),
            current: Mutex::new(String::new()),
            last_told: AtomicU64::new(0),
        }
    }

    /// The same for a verb that takes its time: a program is told how far it is, on standard output. Where that
    /// belongs to a list or a file, it is not.
    pub fn with_status(mut self) -> Self {
        self.tells_status = true;
        self
    }

    /// The same for a verb that writes to the terminal itself.
    pub fn without_bar(mut self) -> Self {
        if self.manner == Manner::Bar {
            self.manner = Manner::Lines;
        }
        self
    }

    /// How many problems were told.
    pub fn problems(&self) -> u64 {
        self.problems.load(Ordering::Relaxed)
    }

    /// The bar goes; what follows is the summary.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Tells a problem that the command itself met.
    pub fn tell_problem(&self, item: &str, during: &'static str, message: &str) {
        let (item, message) = (item.to_string(), message.to_string());
        self.problem(Problem { item, during, message });
    }

    /// Whether `interval` milliseconds have passed since something was told; if so, they begin again.
    fn is_time(&self, interval: u64) -> bool {
        let now = self.clock.elapsed().as_millis() as u64;
        let last = self.last_told.load(Ordering::Relaxed);
        now >= last + interval
            && self
                .last_told
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// One line that says how far it is, for a log.
    fn tell_line(&self) {
        let Some(phase) = self.current_phase() else { return };
        let (files, bytes) =
            (self.done_files.load(Ordering::Relaxed), self.done_bytes.load(Ordering::Relaxed));
        let expected = self.expected_bytes.load(Ordering::Relaxed);
        let of = match expected.max(bytes) {
            total if expected > 0 => format!(" of {}", format_bytes(total)),
            _ => String::new(),
        };
        self.error_line(&format!(
            "{}: {files} files, {}{of}, {}",
            phase_words(phase),
            format_bytes(bytes),
            format_rate(bytes, self.clock.elapsed()),
        ));
    }

    fn tell_status(&self) {
        let expected_bytes = self.expected_bytes.load(Ordering::Relaxed);
        let expected_files = self.expected_files.load(Ordering::Relaxed);
        let bytes = self.done_bytes.load(Ordering::Relaxed);
        let files = self.done_files.load(Ordering::Relaxed);
        let elapsed = self.clock.elapsed();
        let share = match (expected_bytes, expected_files) {
            (0, 0) => 0.0,
            (0, _) => files as f64 / expected_files as f64,
            _ => bytes as f64 / expected_bytes as f64,
        };
        let share = share.min(1.0);
        let mut status = json!({
            "message_type": "status",
            "phase": self.current_phase().map(phase_name),
            "percent_done": share,
            "total_files": expected_files.max(files),
            "files_done": files,
            "total_bytes": expected_bytes.max(bytes),
            "bytes_done": bytes,
            "seconds_elapsed": elapsed.as_secs(),
            "error_count": self.problems(),
        });
        if share > 0.0 {
            let remaining = elapsed.as_secs_f64() * (1.0 - share) / share;
            status["seconds_remaining"] = json!(remaining as u64);
        }
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !current.is_empty() {
            status["current_files"] = json!([current]);
        }
        // A backup goes on when nobody listens any more.
        let _ = writeln!(io::stdout(), "{status}");
    }

    fn current_phase(&self) -> Option<Phase> {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error_line(&self, text: &str) {
        self.bar.suspend(|| {
            let _ = writeln!(io::stderr(), "{text}");
        });
    }

    fn error_json(&self, message: &Value) {
        let _ = writeln!(io::stderr(), "{message}");
    }

    fn start_bar(&self, phase: Phase) {
        self.bar.set_style(style("{prefix} {spinner}  {binary_bytes}  {binary_bytes_per_sec}"));
        self.bar.set_prefix(phase_words(phase));
        self.bar.set_message("");
        self.bar.unset_length();
        self.bar.reset();
        // Only now: at a terminal, each of these would have drawn a bar that is not finished.
        if self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        }
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }
}

impl Monitor for ProgressMonitor {
    fn phase(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = Some(phase);
        // Each phase counts for itself.
        for counter in
            [&self.expected_files, &self.expected_bytes, &self.done_files, &self.done_bytes]
        {
            counter.store(0, Ordering::Relaxed);
        }
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clear();
        match self.manner {
            Manner::Bar => self.start_bar(phase),
            Manner::Lines if self.verbosity > 0 => self.error_line(phase_words(phase)),
            Manner::Json if self.tells_status => self.tell_status(),
            Manner::Json | Manner::Lines | Manner::Quiet => {}
        }
    }

    fn expect(&self, total: Progress) {
        self.expected_files.store(total.files, Ordering::Relaxed);
        let before = self.expected_bytes.swap(total.bytes, Ordering::Relaxed);
        if self.manner == Manner::Bar && total.bytes > 0 {
            if before == 0 {
                self.bar.set_style(style(
                    "{prefix} {bar:24} {percent:>3}%  {binary_bytes} of {binary_total_bytes}  \
                     {binary_bytes_per_sec}  {eta} left",
                ));
            }
            self.bar.set_length(total.bytes);
        }
    }

    fn advance(&self, done: Progress) {
        self.done_files.fetch_add(done.files, Ordering::Relaxed);
        self.done_bytes.fetch_add(done.bytes, Ordering::Relaxed);
        match self.manner {
            Manner::Bar => self.bar.inc(done.bytes),
            Manner::Json if self.tells_status && self.is_time(STATUS_INTERVAL) => {
                self.tell_status()
            }
            Manner::Lines if self.is_time(LINE_INTERVAL) => self.tell_line(),
            _ => {}
        }
    }

    fn current(&self, item: &str) {
        match self.manner {
            Manner::Bar if self.is_time(NAME_INTERVAL) => {
                self.bar.set_message(Printable(item.as_bytes()).to_string());
            }
            Manner::Json => {
                // Whoever holds it is telling; this name is not missed.
                if let Ok(mut current) = self.current.try_lock() {
                    current.clear();
                    current.push_str(item);
                }
            }
            Manner::Lines | Manner::Quiet | Manner::Bar => {}
        }
        if self.verbosity > 1 && self.manner == Manner::Lines {
            self.error_line(&Printable(item.as_bytes()).to_string());
        }
    }

    fn problem(&self, problem: Problem) {
        self.problems.fetch_add(1, Ordering::Relaxed);
        if self.manner == Manner::Json {
            self.error_json(&json!({
                "message_type": "error",
                "error": {"message": problem.message},
                "during": problem.during,
                "item": problem.item,
            }));
            return;
        }
        let mark = self.style.yellow("problem:");
        let item = Printable(problem.item.as_bytes());
        let message = Printable(problem.message.as_bytes());
        self.error_line(&format!("{mark} {item}: {message}"));
    }

    fn note(&self, text: &str) {
        match self.manner {
            Manner::Quiet => {}
            Manner::Json => self.error_json(&json!({"message_type": "note", "message": text})),
            Manner::Bar | Manner::Lines => {
                let mark = self.style.dim("note:");
                self.error_line(&format!("{mark} {}", Printable(text.as_bytes())));
            }
        }
    }

    fn interrupted(&self) -> bool {
        is_stopping()
    }
}

impl Drop for ProgressMonitor {
    fn drop(&mut self) {
        self.finish();
    }
}

fn style(first_line: &str) -> ProgressStyle {
    let template = format!("{first_line}\n  {{wide_msg:.dim}}");
    ProgressStyle::with_template(&template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}

fn phase_words(phase: Phase) -> &'static str {
    match phase {
        Phase::LoadIndex => "Reading the index",
        Phase::Backup => "Backing up",
        Phase::Plan => "Comparing",
        Phase::Restore => "Restoring",
        Phase::CheckStructure => "Following snapshots",
        Phase::CheckData => "Reading packs",
        Phase::Compare => "Comparing",
        Phase::Mark => "Finding what is needed",
        Phase::Count => "Counting what is needed",
        Phase::Repack => "Copying what is needed",
        Phase::Delete => "Deleting",
        Phase::Lock => "Locking",
        Phase::Repair => "Mending",
        Phase::Copy => "Copying",
        Phase::Mirror => "Mirroring",
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::LoadIndex => "load_index",
        Phase::Backup => "backup",
        Phase::Plan => "plan",
        Phase::Restore => "restore",
        Phase::CheckStructure => "check_structure",
        Phase::CheckData => "check_data",
        Phase::Compare => "compare",
        Phase::Mark => "mark",
        Phase::Count => "count",
        Phase::Repack => "repack",
        Phase::Delete => "delete",
        Phase::Lock => "lock",
        Phase::Repair => "repair",
        Phase::Copy => "copy",
        Phase::Mirror => "mirror",
    }
}
