/*
 * Preloaded into iscsi-test-cu, which says too little and waits too long.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef int assert_function(int, unsigned int, const char *, const char *, const char *, int);

/* Some tests leave something out by an assertion that always holds and whose text says so: without
 * this they would read as passed. */
int CU_assertImplementation(int holds, unsigned int line, const char *condition, const char *file,
                            const char *function, int fatal)
{
    static assert_function *next;

    if (condition != NULL && strcasestr(condition, "skip") != NULL)
        printf("\n%s\n", condition);
    if (next == NULL)
        next = (assert_function *)dlsym(RTLD_NEXT, "CU_assertImplementation");
    return next(holds, line, condition, file, function, fatal);
}

/* One looks once a minute whether the disk is done: every second does as well. */
unsigned int sleep(unsigned int seconds)
{
    static unsigned int (*next)(unsigned int);

    if (next == NULL)
        next = (unsigned int (*)(unsigned int))dlsym(RTLD_NEXT, "sleep");
    return next(seconds < 60 ? seconds : 1);
}
