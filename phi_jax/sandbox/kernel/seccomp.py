"""seccomp-bpf: which system calls the process may make. An allow-list: what a future kernel adds is denied.

Landlock says which files may be read; this filter takes away everything else that reaches outside: sockets,
processes and threads, signals to others, changes to files' names and attributes, limits, namespaces, tracing,
io_uring, bpf, keys. A denied call returns EPERM, which Python turns into a PermissionError that the candidate
may handle; a call under another architecture's numbers kills the process.

The candidate is one thread: RLIMIT_NPROC counts per user and is not enforced for root, so a bound on threads
would have to be a false one. `Thread.start` fails with "can't start new thread".
"""

import ctypes
import errno
import os
import struct

from .libc import PR_SET_SECCOMP, prctl, syscall

_MODE_FILTER = 2
_GET_ACTION_AVAIL = 2

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

# Classic BPF: load a word of seccomp_data, jump if equal, jump if not below, return.
_LOAD, _JEQ, _JGE, _RET = 0x20, 0x15, 0x35, 0x06
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data (the low half of an argument comes first)

_X32_BIT = 0x40000000
_NEWER = 450  # the first call that no table here knows


def _numbers(table: str) -> dict[str, int]:
    return {name: int(number) for name, number in (entry.split("=") for entry in table.split())}


# Since 424 the numbers are the same on every architecture.
_COMMON = _numbers("clone3=435 close_range=436 faccessat2=439 futex_waitv=449")

_X86_64 = _numbers("""
    read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12
    rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 ioctl=16 pread64=17 pwrite64=18 readv=19 writev=20
    access=21 pipe=22 select=23 sched_yield=24 mremap=25 madvise=28 dup=32 dup2=33 pause=34 nanosleep=35
    getitimer=36 alarm=37 setitimer=38 getpid=39 recvfrom=45 socketpair=53 clone=56 exit=60 wait4=61 uname=63
    fcntl=72 fsync=74 getdents=78 getcwd=79 chdir=80 fchdir=81 readlink=89 umask=95 gettimeofday=96
    getrlimit=97 getrusage=98 sysinfo=99 times=100 getuid=102 getgid=104 geteuid=107 getegid=108 getppid=110
    getpgrp=111 getgroups=115 getresuid=118 getresgid=120 getpgid=121 getsid=124 rt_sigpending=127
    rt_sigtimedwait=128 rt_sigsuspend=130 sigaltstack=131 statfs=137 fstatfs=138 getpriority=140
    arch_prctl=158 gettid=186 time=201 futex=202 sched_getaffinity=204 epoll_create=213 getdents64=217
    set_tid_address=218 restart_syscall=219 fadvise64=221 clock_gettime=228 clock_getres=229
    clock_nanosleep=230 exit_group=231 epoll_wait=232 epoll_ctl=233 waitid=247 openat=257 newfstatat=262
    readlinkat=267 faccessat=269 pselect6=270 ppoll=271 set_robust_list=273 get_robust_list=274
    epoll_pwait=281 epoll_create1=291 dup3=292 pipe2=293 preadv=295 prlimit64=302 getcpu=309 getrandom=318
    membarrier=324 statx=332 rseq=334
""")

_AARCH64 = _numbers("""
    getcwd=17 epoll_create1=20 epoll_ctl=21 epoll_pwait=22 dup=23 dup3=24 fcntl=25 ioctl=29 statfs=43
    fstatfs=44 faccessat=48 chdir=49 fchdir=50 openat=56 close=57 pipe2=59 getdents64=61 lseek=62 read=63
    write=64 readv=65 writev=66 pread64=67 pwrite64=68 preadv=69 pselect6=72 ppoll=73 readlinkat=78
    newfstatat=79 fstat=80 fsync=82 exit=93 exit_group=94 waitid=95 set_tid_address=96 futex=98
    set_robust_list=99 get_robust_list=100 nanosleep=101 getitimer=102 setitimer=103 clock_gettime=113
    clock_getres=114 clock_nanosleep=115 sched_getaffinity=123 sched_yield=124 restart_syscall=128
    sigaltstack=132 rt_sigsuspend=133 rt_sigaction=134 rt_sigprocmask=135 rt_sigpending=136
    rt_sigtimedwait=137 rt_sigreturn=139 getpriority=141 getresuid=148 getresgid=150 times=153 getpgid=155
    getsid=156 getgroups=158 uname=160 getrlimit=163 getrusage=165 umask=166 getcpu=168 gettimeofday=169
    getpid=172 getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177 gettid=178 sysinfo=179 socketpair=199
    recvfrom=207 brk=214 munmap=215 mremap=216 clone=220 mmap=222 fadvise64=223 mprotect=226 madvise=233
    wait4=260 prlimit64=261 getrandom=278 membarrier=283 statx=291 rseq=293
""")

# Calls that are answered otherwise than yes: glibc takes ENOSYS of clone3 as "use clone", and EAGAIN of clone
# as "no more threads"; any other code makes it abort.
_REFUSED = {"clone3": errno.ENOSYS, "clone": errno.EAGAIN}

# Calls whose arguments decide: {call: (argument, allowed low 32 bits)}.
# fcntl: F_SETOWN with F_SETSIG would make the kernel send any signal to any process of the same user.
_CHECKED: dict[str, list[tuple[int, tuple[int, ...]]]] = {
    "fcntl": [(1, (0, 1, 2, 3, 4, 1030))],  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
    "ioctl": [(1, (0x5401, 0x5450, 0x5451, 0x5421))],  # TCGETS, FIONCLEX, FIOCLEX, FIONBIO
    # AF_UNIX: asyncio's loop wakes itself through a socketpair; without connect, sendto and sendmsg it reaches nobody.
    "socketpair": [(0, (1,))],
    # Its own limits (pid 0), to read only (no new limits: both halves of the pointer are checked below).
    "prlimit64": [(0, (0,)), (2, (0,))],
}


# Machine -> (AUDIT_ARCH_*, its calls).
_ARCHITECTURES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}


def supported() -> str | None:
    """None where filters can be used here, else what is missing."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        return f"no seccomp filter is written for {machine}"
    action = ctypes.c_uint32(_ERRNO)
    number = 317 if machine == "x86_64" else 277
    try:
        syscall(number, _GET_ACTION_AVAIL, 0, ctypes.addressof(action))
    except OSError:
        return "seccomp filters (CONFIG_SECCOMP_FILTER) are missing"
    return None


def _instruction(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, true, false, value)


def program(machine: str) -> bytes:
    """The filter for `machine` (os.uname().machine) as struct sock_filter[]. KeyError if unknown."""
    audit, calls = _ARCHITECTURES[machine]
    code = [
        _instruction(_LOAD, _ARCH),
        _instruction(_JEQ, audit, 1, 0),
        _instruction(_RET, _KILL_PROCESS),
        _instruction(_LOAD, _NR),
    ]
    if machine == "x86_64":
        code += [_instruction(_JGE, _X32_BIT, 0, 1), _instruction(_RET, _KILL_PROCESS)]
    for name, number in (calls | _COMMON).items():
        body = b"".join(_check(*check) for check in _CHECKED.get(name, []))
        body += _instruction(_RET, _ERRNO | _REFUSED[name] if name in _REFUSED else _ALLOW)
        code += [_instruction(_JEQ, number, 0, len(body) // 8), body]
    code += [
        # The C library probes for newer calls and expects "no such call" from a kernel that lacks them.
        _instruction(_JGE, _NEWER, 0, 1),
        _instruction(_RET, _ERRNO | errno.ENOSYS),
        _instruction(_RET, _ERRNO | errno.EPERM),
    ]
    return b"".join(code)


def _check(argument: int, allowed: tuple[int, ...]) -> bytes:
    """Falls through if the argument is one of `allowed`; else returns EPERM. The high half is checked where a
    pointer may stand; for the int arguments of fcntl, ioctl and socketpair the kernel drops it."""
    refuse = _instruction(_RET, _ERRNO | errno.EPERM)
    low = [_instruction(_LOAD, _ARGS + 8 * argument)]
    for index, value in enumerate(allowed):
        low.append(_instruction(_JEQ, value, len(allowed) - index, 0))
    low.append(refuse)
    if allowed != (0,):
        return b"".join(low)
    high = [_instruction(_LOAD, _ARGS + 8 * argument + 4), _instruction(_JEQ, 0, 1, 0), refuse]
    return b"".join(low + high)


class Filter(ctypes.Structure):
    """The filter for `machine`, built once in the fork server and installed in each child."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    def __init__(self, machine: str) -> None:
        code = program(machine)
        super().__init__(len(code) // 8, code)

    def install(self) -> None:
        """Puts this thread under the filter for good. Needs no_new_privs. Raises OSError."""
        prctl(PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(self))
