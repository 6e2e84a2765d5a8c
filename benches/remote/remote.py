#!/usr/bin/env python3
"""The same backup work through several tools to servers that are a round trip away, in turn, side by side.

    remote.py --corpus FIRST [--next SECOND] [--stores s3,sftp] [--tools aumbry,restic,rustic] [--runs 3] [--part MB]
              [--delay 20] [--json OUT]

The servers run on loopback: `rclone serve s3` over a folder, and OpenSSH's sshd with its internal-sftp. Between them and the
tools stands delay.rs (compiled here with rustc), which adds half of --delay milliseconds in each direction, makes a
connection cost a round trip, and does not limit bandwidth. Every tool does, with a repository and a cache of its own:

    init       make the repository
    first      back up FIRST
    unchanged  back it up again
    next       back up SECOND in its place (every file has a new inode)
    restore    restore the newest snapshot into an empty directory
    elsewhere  the same on a machine that has no cache
    verify     read back and check every byte (check --read-data)

The tools take turns within a run, and the order moves on by one from run to run. Figures are medians over the runs: wall
seconds, CPU seconds of the tool (with its ssh, without the servers and the delay), peak memory of its largest process.
A restored tree that differs from its source makes the exit status 1.

Tools and servers come from PATH, or from the environment: AUMBRY=, RESTIC=, RUSTIC=, RCLONE=, SSHD=. A tool that is not there is
left out, and said so.
"""
import argparse, getpass, hashlib, json, os, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

PASSWORD = "correct horse battery staple"
STEPS = ("init", "first", "unchanged", "next", "restore", "elsewhere", "verify")
ACCESS, SECRET, BUCKET = "remotebenchaccess", "remotebenchsecretremotebench", "backups"
HERE = os.path.dirname(os.path.abspath(__file__))


def binary(name):
    return shutil.which(os.environ.get(name.upper(), name)) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


class Processes:
    """What was started here; stopped by its process id."""

    def __init__(self):
        self.running = []

    def start(self, argv, log, **options):
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=open(log, "ab"),
                                 **{"stdout": open(log, "ab"), **options})
        self.running.append(child)
        return child

    def stop(self):
        for child in reversed(self.running):
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.running.clear()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def await_port(port, child, log):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if child.poll() is not None:
                break
            time.sleep(0.05)
    raise RuntimeError(f"a server does not start; see {log}")


class Far:
    """A server and the way to it."""

    def __init__(self, work, processes, delay, milliseconds):
        self.folder = os.path.join(work, self.name)
        self.data = os.path.join(self.folder, "data")
        os.makedirs(self.data)
        self.log = os.path.join(self.folder, "log")
        server = self.serve(processes)
        address = f"127.0.0.1:{self.server_port}"
        await_port(self.server_port, server, self.log)
        way = processes.start([delay, address, str(milliseconds / 2)], self.log, stdout=subprocess.PIPE, text=True)
        self.port = int(way.stdout.readline())
        self.prepare()

    def prepare(self):
        pass


class S3(Far):
    name = "s3"

    def serve(self, processes):
        self.server_port = free_port()
        os.makedirs(os.path.join(self.data, BUCKET))
        env = dict(os.environ, RCLONE_CONFIG=os.path.join(self.folder, "rclone.conf"), HOME=self.folder)
        argv = [binary("rclone"), "serve", "s3", "--auth-key", f"{ACCESS},{SECRET}", "--addr",
                f"127.0.0.1:{self.server_port}", self.data]
        return processes.start(argv, self.log, env=env)

    def environment(self):
        return {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}

    def aumbry(self, tool):
        return {"AUMBRY_REPOSITORY": f"s3+http://127.0.0.1:{self.port}/{BUCKET}/{tool}"}

    def restic(self, tool):
        return {"RESTIC_REPOSITORY": f"s3:http://127.0.0.1:{self.port}/{BUCKET}/{tool}"}

    def rustic(self, tool):
        return "opendal:s3", {"endpoint": f"http://127.0.0.1:{self.port}", "bucket": BUCKET, "root": f"/{tool}",
                              "region": "us-east-1", "access_key_id": ACCESS, "secret_access_key": SECRET}


class Sftp(Far):
    name = "sftp"

    def serve(self, processes):
        self.server_port = free_port()
        self.home = os.path.join(self.folder, "home")
        os.makedirs(os.path.join(self.folder, "bin"))
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        path = lambda name: os.path.join(self.folder, name)
        for key in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path(key)], check=True)
        shutil.copy(path("user_key.pub"), path("authorized_keys"))
        with open(path("sshd_config"), "w") as f:
            f.write(f"ListenAddress 127.0.0.1\nPort {self.server_port}\nHostKey {path('host_key')}\n"
                    f"AuthorizedKeysFile {path('authorized_keys')}\nUsePAM no\nStrictModes no\nPidFile none\n"
                    "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 200\nMaxSessions 100\n"
                    "Subsystem sftp internal-sftp\n")
        return processes.start([binary("sshd"), "-D", "-f", path("sshd_config"), "-E", path("sshd_log")], self.log)

    def prepare(self):
        # Every tool runs the system's ssh: one in front of it on PATH knows the server and the key.
        path = lambda name: os.path.join(self.folder, name)
        key = open(path("host_key.pub")).read()
        with open(path("known_hosts"), "w") as f:
            f.write(f"[127.0.0.1]:{self.port} {key}")
        with open(path("ssh_config"), "w") as f:
            f.write(f"Host *\n  Port {self.port}\n  IdentityFile {path('user_key')}\n  IdentitiesOnly yes\n"
                    f"  IdentityAgent none\n  UserKnownHostsFile {path('known_hosts')}\n"
                    "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n")
        with open(path("bin/ssh"), "w") as f:
            f.write(f"#!/bin/sh\nexec {shutil.which('ssh')} -F {path('ssh_config')} \"$@\"\n")
        os.chmod(path("bin/ssh"), 0o755)

    def environment(self):
        return {"PATH": os.path.join(self.folder, "bin") + ":" + os.environ["PATH"]}

    def aumbry(self, tool):
        return {"AUMBRY_REPOSITORY": f"sftp://127.0.0.1:{self.port}{self.data}/{tool}"}

    def restic(self, tool):
        return {"RESTIC_REPOSITORY": f"sftp://127.0.0.1:{self.port}/{self.data}/{tool}"}

    def rustic(self, tool):
        return "opendal:sftp", {"endpoint": f"ssh://127.0.0.1:{self.port}", "root": f"{self.data}/{tool}",
                                "user": getpass.getuser(), "key": os.path.join(self.folder, "user_key"),
                                "known_hosts_strategy": "Accept"}


class Failed(Exception):
    """A tool that ended with an error."""


class Tool:
    def __init__(self, far, work):
        self.exe = binary(self.name)
        self.home = os.path.join(work, f"{far.name}-{self.name}")
        os.makedirs(self.home)
        self.env = dict(os.environ, HOME=self.home, XDG_CACHE_HOME=self.home + "/cache",
                        XDG_CONFIG_HOME=self.home + "/config", XDG_DATA_HOME=self.home + "/data",
                        XDG_STATE_HOME=self.home + "/state", **far.environment())
        self.password_file = os.path.join(self.home, "password")
        with open(self.password_file, "w") as f:
            f.write(PASSWORD)
        self.reach(far)

    def run(self, *argv, cwd=None, elsewhere=False):
        """Wall and CPU seconds, peak memory in MiB of one command."""
        env = dict(self.env, XDG_CACHE_HOME=self.home + "/elsewhere") if elsewhere else self.env
        log = open(os.path.join(self.home, "log"), "ab")
        log.write(f"$ {' '.join(argv)}\n".encode())
        log.flush()
        start = time.monotonic()
        child = subprocess.Popen(argv, env=env, cwd=cwd, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        log.write(f"# {wall:.2f} s\n".encode())
        log.close()
        if child.returncode != 0:
            with open(log.name, errors="replace") as f:
                said = [line for line in f.read().splitlines()[-40:] if "rror" in line or "ailed" in line]
            raise Failed(f"{self.name} {argv[1]}: exit {child.returncode}: {' '.join(said)[:300]}")
        return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024}

    def init(self): return self.run(self.exe, "init")
    def backup(self, live): return self.run(self.exe, "backup", ".", cwd=live)
    def verify(self): return self.run(self.exe, "check", "--read-data")

    def restore(self, to, elsewhere=False):
        return self.run(self.exe, "restore", "latest", *self.target(to), elsewhere=elsewhere)

    def target(self, to): return ("--target", to)


class Aumbry(Tool):
    name = "aumbry"

    def reach(self, far):
        self.env.update(AUMBRY_PASSWORD_FILE=self.password_file, **far.aumbry(self.name))


class Restic(Tool):
    name = "restic"

    def reach(self, far):
        self.env.update(RESTIC_PASSWORD_FILE=self.password_file, **far.restic(self.name))


class Rustic(Tool):
    name = "rustic"

    def reach(self, far):
        repository, options = far.rustic(self.name)
        self.is_made = far.name == "s3"
        os.makedirs(self.home + "/config/rustic")
        with open(self.home + "/config/rustic/rustic.toml", "w") as f:
            f.write(f'[repository]\nrepository = "{repository}"\npassword-file = "{self.password_file}"\n'
                    "[repository.options]\n" + "".join(f'{key} = "{value}"\n' for key, value in options.items()))
        if self.is_made:
            # Its folders are objects whose names end in a slash, which rclone refuses. So it is made where the server keeps
            # it, before the server has looked there.
            self.run(self.exe, "-r", os.path.join(far.data, BUCKET, self.name), "init")

    def init(self): return None if self.is_made else super().init()

    def target(self, to): return (to,)


TOOLS = {tool.name: tool for tool in (Aumbry, Restic, Rustic)}
FARS = {far.name: far for far in (S3, Sftp)}


def fingerprint(path):
    """One digest over the names, types, modes, link targets and contents below path."""
    digest = hashlib.blake2b()
    for root, dirs, names in os.walk(path):
        dirs.sort()
        for n in sorted(names + [d for d in dirs if os.path.islink(os.path.join(root, d))]):
            p = os.path.join(root, n)
            st = os.lstat(p)
            digest.update(f"{os.path.relpath(p, path)}\0{st.st_mode}\0".encode("utf-8", "surrogateescape"))
            if os.path.islink(p):
                digest.update(os.readlink(p).encode("utf-8", "surrogateescape"))
            elif os.path.isfile(p):
                with open(p, "rb") as f:
                    digest.update(hashlib.file_digest(f, "blake2b").digest())
    return digest.hexdigest()


MARKER = ".remote-root"


def restored_root(to):
    """Tools differ in how much of the source path they keep."""
    for root, _, files in os.walk(to):
        if MARKER in files:
            return root
    return to


def copy_part(source, to, most):
    """The first `most` bytes of files, in order of their names; all of them where that is None."""
    total = count = 0
    for root, dirs, names in os.walk(source):
        dirs.sort()
        place = os.path.join(to, os.path.relpath(root, source))
        os.makedirs(place, exist_ok=True)
        for n in sorted(names):
            if most is not None and total >= most:
                break
            shutil.copy2(os.path.join(root, n), os.path.join(place, n), follow_symlinks=False)
            total += os.lstat(os.path.join(root, n)).st_size
            count += 1
    open(os.path.join(to, MARKER), "w").close()
    return total, count


def one_run(tools, far, work, sources, steps):
    live = os.path.join(work, "live")
    results = {t: {} for t in tools}
    made = {name: TOOLS[name](far, work) for name in tools}

    def each(step, action):
        for name, tool in list(made.items()):
            try:
                figures = action(tool)
            except Failed as failed:
                # Without it from here on: what it would do next is not the same work.
                print(f"FAILED, and left out of the rest of this run: {failed}")
                del made[name]
                continue
            if figures:
                results[name][step] = figures

    def backups(step, source):
        os.rename(source, live)
        try:
            each(step, lambda tool: tool.backup(live))
            return fingerprint(live)
        finally:
            os.rename(live, source)

    each("init", lambda tool: tool.init())
    want = backups("first", sources[0])
    if "unchanged" in steps:
        backups("unchanged", sources[0])
    if "next" in steps and len(sources) > 1:
        want = backups("next", sources[1])
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else work

    def restore(tool, elsewhere):
        to = tempfile.mkdtemp(prefix="remote-restored-", dir=memory)
        try:
            figures = tool.restore(to, elsewhere)
            is_exact = fingerprint(restored_root(to)) == want
            results[tool.name]["exact"] = results[tool.name].get("exact", True) and is_exact
            return figures
        finally:
            shutil.rmtree(to)

    if "restore" in steps:
        each("restore", lambda tool: restore(tool, False))
    if "elsewhere" in steps:
        each("elsewhere", lambda tool: restore(tool, True))
    if "verify" in steps:
        each("verify", lambda tool: tool.verify())
    return results


def report(name, runs, tools, delay):
    print(f"\n{name}, {delay:g} ms; {len(runs)} run(s), medians: wall s (CPU s) peak MiB")
    head = " | ".join(tools)
    print(f"| step | {head} | Aumbry against the best peer |\n|{'---|' * (len(tools) + 2)}")
    table = {}
    for step in STEPS:
        row = {}
        for t in tools:
            got = [r[t][step] for r in runs if step in r[t]]
            if got:
                row[t] = {k: statistics.median(g[k] for g in got) for k in got[0]}
        if not row:
            continue
        cell = lambda m: f"{m['wall']:.2f} ({m['cpu']:.1f}) {m['rss']:.0f} MiB" if m else "–"
        best = min((m["wall"] for t, m in row.items() if t != "aumbry"), default=None)
        ratio = f"{best / row['aumbry']['wall']:.2f}×" if best and "aumbry" in row else "–"
        print(f"| {step} | " + " | ".join(cell(row.get(t)) for t in tools) + f" | {ratio} |")
        table[step] = row
    return table


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--corpus", required=True)
    p.add_argument("--next")
    p.add_argument("--stores", default=",".join(FARS))
    p.add_argument("--tools", default=",".join(TOOLS))
    p.add_argument("--steps", default=",".join(STEPS), help="init and first always run")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--part", type=float, help="megabytes of the corpus")
    p.add_argument("--delay", type=float, default=20, help="milliseconds, there and back")
    p.add_argument("--work", help="scratch directory")
    p.add_argument("--keep", action="store_true", help="keep the scratch directory, with every tool's log")
    p.add_argument("--json")
    a = p.parse_args()
    # So that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tools = [t for t in a.tools.split(",") if binary(t)]
    for t in a.tools.split(","):
        if t not in tools:
            print(f"left out: {t} is not installed")
    scratch = tempfile.mkdtemp(prefix="remote-", dir=a.work)
    is_exact, tables = True, {}
    try:
        delay = os.path.join(scratch, "delay")
        subprocess.run(["rustc", "-O", "--edition", "2024", "-o", delay, os.path.join(HERE, "delay.rs")], check=True)
        sources = []
        for number, corpus in enumerate(filter(None, (a.corpus, a.next))):
            sources.append(os.path.join(scratch, f"source-{number}"))
            size, count = copy_part(corpus, sources[-1], a.part * 1e6 if a.part else None)
            print(f"{os.path.basename(corpus)}: {size / 1e6:.0f} MB in {count} files")
        for name in a.stores.split(","):
            runs = []
            for i in range(a.runs):
                work, processes = os.path.join(scratch, f"{name}-{i}"), Processes()
                os.makedirs(work)
                try:
                    far = FARS[name](work, processes, delay, a.delay)
                    order = tools[i % len(tools):] + tools[:i % len(tools)]
                    runs.append(one_run(order, far, work, sources, set(a.steps.split(","))))
                finally:
                    processes.stop()
                    if not a.keep:
                        shutil.rmtree(work, ignore_errors=True)
            tables[name] = report(name, runs, tools, a.delay)
            for t in tools:
                if not all(r[t].get("exact", True) for r in runs):
                    print(f"NOT EXACT: {t} restored a tree that differs from its source")
                    is_exact = False
    finally:
        if a.keep:
            print(f"kept: {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    if a.json:
        with open(a.json, "w") as f:
            json.dump({"delay": a.delay, "runs": a.runs, "part": a.part, "tables": tables}, f, indent=1)
    sys.exit(0 if is_exact else 1)


if __name__ == "__main__":
    main()
