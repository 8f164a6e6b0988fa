# SPDX-License-Identifier: Apache-2.0
"""Commands, processes, and waiting for conditions."""

import os
import signal
import subprocess
import time


class Failed(RuntimeError):
    """Something did not work. The text is for people; log names a file to look at, if there is one."""

    def __init__(self, text, log=None):
        super().__init__(text)
        self.log = log


def placed(argv, netns=None, cgroup=None):
    """The command that runs argv in a network namespace (a name of `ip netns`, or a path) and in a cgroup. Its process is
    argv's own. (Python's way, a function called in the forked child, can hang when other threads run, such as those of gRPC.)"""
    argv = [str(a) for a in argv]
    if cgroup:
        argv = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(cgroup), *argv]
    if netns:
        argv = ["nsenter", f"--net={netns if netns.startswith('/') else f'/run/netns/{netns}'}", "--", *argv]
    return argv


def run(argv, netns=None, cgroup=None, check=True, timeout=60, **options):
    """Runs to the end. Returns subprocess.CompletedProcess with text output; Failed with stderr if it fails."""
    argv = placed(argv, netns, cgroup)
    try:
        r = subprocess.run(
            argv, capture_output=True, text=True, errors="backslashreplace", timeout=timeout, **options
        )
    except subprocess.TimeoutExpired as e:
        raise Failed(f"`{' '.join(argv)}` did not end within {timeout} s") from e
    except FileNotFoundError as e:
        raise Failed(f"`{argv[0]}` is not installed") from e
    if check and r.returncode:
        said = (r.stderr.strip() or r.stdout.strip())[-2000:]
        raise Failed(f"`{' '.join(argv)}` ended with {r.returncode}: {said}")
    return r


def sh(*argv, **options):
    """The output of a command that succeeds."""
    return run(argv, **options).stdout


def wait_for(condition, what, timeout=20.0, interval=0.02, log=None):
    """Waits until condition() is true and returns its value; Failed after timeout seconds.

    An exception of the condition counts as "not yet"; the last one is told if the time runs out.
    """
    deadline = time.monotonic() + timeout
    last = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = None
        except (OSError, ValueError, KeyError, Failed) as e:
            last = e
        if time.monotonic() > deadline:
            because = f" ({last})" if last else ""
            raise Failed(f"{what}: not within {timeout:g} s{because}", log)
        time.sleep(interval)


class Process:
    """A program in the background, with its output in a file.

    cgroup: directory that the program is put in before it starts. tied: it dies with the thread of this process that has
    started it.
    """

    def __init__(self, argv, log, netns=None, env=None, cgroup=None, tied=True, stdin=subprocess.DEVNULL):
        self.name = os.path.basename(str(argv[0]))
        self.log = str(log)
        argv = placed(argv, netns, cgroup)
        if tied:
            argv = ["setpriv", "--pdeathsig", "KILL", *argv]
        with open(self.log, "ab") as out:
            self.popen = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=not tied,
                env={**os.environ, **{k: str(v) for k, v in (env or {}).items()}},
            )
        self.pid = self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def check(self):
        if not self.alive():
            raise Failed(f"{self.name} has ended with {self.popen.returncode}: {self.last_words()}", self.log)

    def last_words(self, lines=3):
        with open(self.log, errors="replace") as f:
            return " / ".join(line.strip() for line in f.readlines()[-lines:])

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def wait(self, timeout=30):
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired as e:
            raise Failed(f"{self.name} did not end within {timeout} s", self.log) from e

    def wait_for_text(self, text, timeout=20):
        """Waits until the output has the text."""

        def there():
            found = text in self.text()
            if not found:
                self.check()
            return found

        wait_for_process(self, there, f"{self.name} to say {text!r}", timeout)

    def kill(self, sig=signal.SIGKILL):
        """One signal; SIGKILL is waited for."""
        if self.alive():
            self.popen.send_signal(sig)
        if sig == signal.SIGKILL:
            self.popen.wait(10)

    def stop(self, timeout=15):
        """SIGTERM, then SIGKILL after the timeout. Returns the exit status."""
        if self.alive():
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.popen.returncode

    def cpu_seconds(self):
        """User and system time so far."""
        with open(f"/proc/{self.pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self):
        """Resident memory, and the greatest it was."""
        values = {}
        with open(f"/proc/{self.pid}/status") as f:
            for line in f:
                if line.startswith(("VmRSS", "VmHWM")):
                    values[line.split(":")[0]] = int(line.split()[1]) * 1024
        return values["VmRSS"], values["VmHWM"]

    def resident_bytes(self):
        return self.memory_bytes()[0]


def seconds_in_queue(pid):
    """How long the first thread of a process, ready to run, has waited for a processor that others had."""
    try:
        with open(f"/proc/{pid}/task/{pid}/schedstat") as f:
            return int(f.read().split()[1]) / 1e9
    except FileNotFoundError:  # a kernel without
        return 0.0


def wait_for_process(process, condition, what, timeout=20.0, interval=0.02):
    """As wait_for, but gives up as soon as the process has ended."""

    def there():
        value = condition()
        if not value and not process.alive():
            raise EndedError()
        return value

    class EndedError(Exception):
        pass

    try:
        return wait_for(there, what, timeout, interval, process.log)
    except EndedError:
        process.check()
        raise Failed(f"{what}: {process.name} has ended", process.log) from None
