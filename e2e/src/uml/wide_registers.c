/*
 * Preloaded into User-Mode Linux. Linux 6.1 as a process sets the vector registers of its guests
 * from a buffer of 2696 bytes. A processor with AMX has a longer register set, and the host then
 * refuses (EFAULT) a shorter one. So set a whole one: what the host has now, below what is given.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define NT_X86_XSTATE 0x202

long ptrace(enum __ptrace_request request, ...)
{
    static long (*next)(enum __ptrace_request, ...);
    static char whole[1 << 16]; /* the caller's stack is small, and it has one thread */
    va_list arguments;

    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (next == NULL)
        next = dlsym(RTLD_NEXT, "ptrace");
    long result = next(request, pid, address, data);
    if (result == 0 || request != PTRACE_SETREGSET || address != (void *)NT_X86_XSTATE || errno != EFAULT)
        return result;

    const struct iovec *given = data;
    struct iovec full = { whole, sizeof whole };
    if (next(PTRACE_GETREGSET, pid, address, &full) != 0 || full.iov_len < given->iov_len)
        return result;
    memcpy(whole, given->iov_base, given->iov_len);
    return next(PTRACE_SETREGSET, pid, address, &full);
}
