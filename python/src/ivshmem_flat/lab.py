"""Programs that share memory, started, watched and ended together.

A Lab starts QEMU's ivshmem-server and machines, shows what they print line by
line, waits for what a caller names, and leaves nothing behind:

    with Lab(timeout=60) as lab:
        server = lab.start_server(lab.server_command(bin_dir))
        machine = lab.start('A', [qemu, ...])
        lab.wait_for_line(machine, 'waiting for a peer')
        lab.wait(lambda: machine.ended, 'machine A to end')

Use it from the main thread, which receives the signals. SIGINT, SIGTERM and
SIGHUP end a wait; the programs die with their parent, whatever kills it.
"""
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: MIT

import contextlib
import ctypes
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """What went wrong, in a line for the user."""


class Program:
    """A running program and what it has printed so far.

    name    what its lines are marked with
    lines   the complete lines that it printed, without their ends
    prompt  what it has printed since, in bytes
    status  None while it runs; then as subprocess.Popen.returncode
    """

    def __init__(self, name, argv, interactive=False):
        parent = os.getpid()

        def before_exec():
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:      # it died before we could ask
                os._exit(1)
            # a shell lets its background jobs ignore this, and all below them
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        self.name = name
        self.lines = []
        self.status = None
        self.prompt = b''
        # In a session of its own, the terminal's Ctrl-C is for the lab alone.
        self._popen = subprocess.Popen(
            argv, bufsize=0,
            stdin=subprocess.PIPE if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=before_exec)
        self.output = self._popen.stdout
        self.pid = self._popen.pid

    @property
    def ended(self):
        return self.status is not None

    def how_it_ended(self):
        """In words, for an error message."""
        if self.status is None:
            return 'still runs'
        if self.status < 0:
            return f'was killed by {signal.Signals(-self.status).name}'
        return f'ended with status {self.status}'

    def read(self):
        """Take what it has printed; return the lines that this completes."""
        data = os.read(self.output.fileno(), 65536)
        *lines, self.prompt = (self.prompt + data).split(b'\n')
        if not data:
            # The last descriptor is closed: it has ended, or is about to.
            self.status = self._popen.wait()
            lines, self.prompt = [self.prompt] if self.prompt else [], b''
        lines = [line.decode(errors='replace').rstrip('\r') for line in lines]
        self.lines += lines
        return lines

    def type(self, data):
        """Have it read these few bytes, if it was started as interactive."""
        try:
            self._popen.stdin.write(data)
        except BrokenPipeError:
            pass        # Lab.wait() will see that it has ended

    def kill(self):
        """Have it ended at once; Lab.wait() will see that it has."""
        self._popen.kill()

    def close(self):
        """End it at once, and take no more notice of it."""
        self._popen.kill()
        self.status = self._popen.wait()
        self.output.close()
        if self._popen.stdin:
            self._popen.stdin.close()


class Lab:
    """See the module's description.

    interruptible  signals end not only wait(), but whatever is done between
                   calls of the lab's methods; not so unless it is set

    timeout  seconds until everything has to be over
    show     called with the Program and each line that it prints
    """
    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, timeout, show=lambda program, line: None):
        self.timeout = timeout
        self.show = show
        self.interruptible = False
        self.socket_path = None     # the server's
        self._programs = []
        self._caught = []           # signals that came, in their order
        self._busy = 0              # not to be disturbed by them

    def __enter__(self):
        self._deadline = time.monotonic() + self.timeout
        # Signals are noted, and acted upon in wait(): never half-way through
        # the start or the end of a program.
        self._wakeup, write_end = socket_pair()
        self._old_wakeup = signal.set_wakeup_fd(write_end.fileno(),
                                                warn_on_full_buffer=False)
        self._write_end = write_end
        self._old_handlers = {
            number: signal.signal(number, self._catch)
            for number in self.SIGNALS
            if signal.getsignal(number) != signal.SIG_IGN}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._folder = tempfile.mkdtemp(prefix='ivshmem-')
        return self

    def __exit__(self, *_):
        with self._undisturbed():
            for program in reversed(self._programs):
                program.close()
            self.named_memory().unlink(missing_ok=True)
            shutil.rmtree(self._folder)
            self._selector.close()
            for number, handler in self._old_handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._old_wakeup)
            self._wakeup.close()
            self._write_end.close()

    def end(self, number):
        """What comes of a signal: it raises."""
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _catch(self, number, _):
        self._caught.append(number)
        if self.interruptible and not self._busy:
            self._end_if_caught()

    def _end_if_caught(self):
        if self._caught:
            number = self._caught[0]
            self._caught.clear()
            self.end(number)

    @contextlib.contextmanager
    def _undisturbed(self):
        """Signals that come while this lasts are acted upon afterwards."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
        self._end_if_caught()

    def start(self, name, argv, interactive=False):
        """Start a program; return its Program.

        interactive  it reads what Program.type() is given, else nothing
        """
        argv = [str(arg) for arg in argv]
        with self._undisturbed():
            try:
                program = Program(name, argv, interactive)
            except OSError as error:
                raise LabError(f'cannot start {argv[0]}: {error.strerror}') \
                    from error
            self._programs.append(program)
            self._selector.register(program.output, selectors.EVENT_READ,
                                    program)
        return program

    def named_memory(self):
        """Where the shared memory is, if the server restarts."""
        return Path('/dev/shm', os.path.basename(self._folder))

    def server_command(self, bin_dir, *options, restarts=False):
        """The command line of an ivshmem-server for this lab.

        restarts  see restart_server()
        """
        self.socket_path = os.path.join(self._folder, 'socket')
        if len(self.socket_path) > 107:     # what a sockaddr_un can hold
            raise LabError(f'{self._folder} is too long for a socket: '
                           'set TMPDIR to a shorter path')
        # With -m, the object has no name from the start: nobody but those
        # who use it can keep it. With -M it has one by which the server finds
        # it again, and which stays if the lab is killed.
        memory = ['-M', self.named_memory().name] if restarts \
            else ['-m', '/dev/shm']
        return [os.path.join(bin_dir, 'ivshmem-server'), '-F',
                '-S', self.socket_path, *memory, *options]

    def start_server(self, command):
        """Start it; return its Program when it accepts connections."""
        server = self.start('server', command)
        # Connecting to find out would make us a peer. The kernel tells.
        self.wait(lambda: server.ended or listens(self.socket_path),
                  'ivshmem-server to listen', tick=0.01)
        if server.ended:
            raise LabError(f'ivshmem-server {server.how_it_ended()}: '
                           + ' '.join(server.lines))
        return server

    def restart_server(self, server, command, seconds=0):
        """Kill the server, and start it again on the same shared memory.

        command  from server_command(restarts=True)
        seconds  how long it is away
        """
        self.kill(server)
        os.unlink(self.socket_path)     # SIGKILL has left it, in the way
        self.pause(seconds)
        return self.start_server(command)

    def wait(self, condition, what, tick=None):
        """Show what the programs print until condition() is true.

        what  names it in the error when the lab's time is over: a string, or
              a function that returns one
        tick  seconds after which to look again though nothing was printed
        """
        while not condition():
            left = self._deadline - time.monotonic()
            if left <= 0:
                what = what() if callable(what) else what
                raise LabError(f'{self.timeout:g} s are over, and still '
                               f'waiting for {what}')
            self._handle_events(left if tick is None else min(left, tick))

    def kill(self, program):
        """End it at once, as a power cut would."""
        program.kill()
        self.wait(lambda: program.ended, f'{program.name} to end')

    def wait_for_line(self, program, text):
        """Wait until the program prints a line with this text in it."""
        def found():
            return any(text in line for line in program.lines)
        self.wait(lambda: found() or program.ended,
                  f'machine {program.name} to say "{text}"')
        if not found():
            raise LabError(f'machine {program.name} {program.how_it_ended()} '
                           f'before it said "{text}"')

    def kill_all(self):
        """Have all programs ended, and show the last that they print."""
        for program in self._programs:
            program.kill()
        self.wait(lambda: all(program.ended for program in self._programs),
                  'the programs to end')

    def pause(self, seconds):
        """Go on showing for this long."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= end, 'a pause to end', tick=0.1)

    def _handle_events(self, seconds):
        with self._undisturbed():
            for key, _ in self._selector.select(seconds):
                if key.data is None:
                    self._wakeup.recv(64)       # self._caught has them
                    continue
                for line in key.data.read():
                    self.show(key.data, line)
                if key.data.ended:
                    self._selector.unregister(key.data.output)


def socket_pair():
    """Two connected sockets that never block."""
    pair = socket.socketpair()
    for end in pair:
        end.setblocking(False)
    return pair


def listens(path):
    """Is there a socket of that path that accepts connections?"""
    accepts = 0x10000       # __SO_ACCEPTCON; see proc(5), /proc/net/unix
    with open('/proc/net/unix', encoding='utf-8', errors='replace') as table:
        next(table)
        for line in table:
            # Num: RefCount Protocol Flags Type St Inode Path
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and fields[7].rstrip('\n') == path and \
                    int(fields[3], 16) & accepts:
                return True
    return False


def relative(path):
    """The path as a user would type it."""
    return min(Path(os.path.relpath(path)), path, key=lambda p: len(str(p)))


def shell_command(argv, width=79):
    """A command line as a user can paste it, an option or more per line."""
    words = [shlex.quote(str(arg)) for arg in argv]
    lines = [words.pop(0)]
    while words:
        word = words.pop(0)
        # an option and its argument stay together
        if word.startswith('-') and words and not words[0].startswith('-'):
            word += ' ' + words.pop(0)
        if len(lines[-1]) + len(word) + 3 <= width:
            lines[-1] += ' ' + word
        else:
            lines.append('    ' + word)
    return ' \\\n'.join(lines)
