/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/log_line.h"
#include "lib/log_output.h"
#include "lib/reasons.h"

#define MAX_SCOPES     16
#define LINE_MAX_BYTES 4096
#define EXIT_WAIT      500 /* milliseconds */

struct scope_level {
    char prefix[48];
    enum log_level level;
};

static struct {
    int fd;
    bool json;
    pthread_mutex_t lock; /* guards the filter; lines are written by one write() each */
    enum log_level level;
    size_t scopes_len;
    struct scope_level scopes[MAX_SCOPES];
    char filter[256];
} logger = {
    .fd = STDERR_FILENO, .lock = PTHREAD_MUTEX_INITIALIZER, .level = LOG_LEVEL_INFO, .filter = "info"};

static const char *const level_names[] = {"off", "error", "warn", "info", "debug", "trace"};

const char *log_level_name(enum log_level level)
{
    return level_names[level];
}

/* A reader that is behind, at the end of the process, has so long to catch up. */
static void flush_at_exit(void)
{
    log_output_flush(EXIT_WAIT);
}

static void on_dropped(uint64_t lines)
{
    log_write(LOG_LEVEL_WARN, "log",
              "log lines were dropped because nothing read them\tlines=%" PRIu64 " reason=%s", lines,
              reason_name(BRUMA_REASON_LOG_NOT_READ));
}

void log_setup(int fd, bool json)
{
    static bool registered;

    logger.fd = fd;
    logger.json = json;
    if (log_output_open(fd, on_dropped) == 0 && !registered)
        registered = atexit(flush_at_exit) == 0;
}

static int parse_level(const char *text, enum log_level *ret)
{
    for (size_t i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++) {
        if (!strcasecmp(text, level_names[i])) {
            *ret = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* One element of the filter: "level", "scope=level" or "scope:level" (scopes may hold "::"). */
static int parse_element(char *text, enum log_level *level, struct scope_level *scopes, size_t *scopes_len)
{
    char *sep = strchr(text, '=');
    struct scope_level s = {};

    if (!sep) {
        sep = strrchr(text, ':');
        if (sep && sep > text && sep[-1] == ':')
            sep = NULL;
    }
    if (!sep)
        return parse_level(text, level);
    *sep = '\0';
    if (!*text || strlen(text) >= sizeof(s.prefix) || parse_level(sep + 1, &s.level) < 0 ||
        *scopes_len == MAX_SCOPES)
        return -EINVAL;
    memcpy(s.prefix, text, strlen(text) + 1);
    scopes[(*scopes_len)++] = s;
    return 0;
}

int log_set_filter(const char *filter)
{
    char copy[sizeof(logger.filter)], *save = NULL;
    struct scope_level scopes[MAX_SCOPES];
    enum log_level level = LOG_LEVEL_INFO;
    size_t scopes_len = 0;

    if (strlen(filter) >= sizeof(copy))
        return -EINVAL;
    memcpy(copy, filter, strlen(filter) + 1);
    for (char *e = strtok_r(copy, ",", &save); e; e = strtok_r(NULL, ",", &save)) {
        int r = parse_element(e, &level, scopes, &scopes_len);

        if (r < 0)
            return r;
    }
    pthread_mutex_lock(&logger.lock);
    __atomic_store_n(&logger.level, level, __ATOMIC_RELAXED);
    memcpy(logger.scopes, scopes, scopes_len * sizeof(scopes[0]));
    __atomic_store_n(&logger.scopes_len, scopes_len, __ATOMIC_RELEASE);
    memcpy(logger.filter, filter, strlen(filter) + 1);
    pthread_mutex_unlock(&logger.lock);
    return 0;
}

void log_get_filter(char *buf, size_t size)
{
    pthread_mutex_lock(&logger.lock);
    snprintf(buf, size, "%s", logger.filter);
    pthread_mutex_unlock(&logger.lock);
}

bool log_enabled(enum log_level level, const char *scope)
{
    enum log_level limit = __atomic_load_n(&logger.level, __ATOMIC_RELAXED);

    if (__atomic_load_n(&logger.scopes_len, __ATOMIC_ACQUIRE)) {
        size_t longest = 0;

        pthread_mutex_lock(&logger.lock);
        for (size_t i = 0; i < logger.scopes_len; i++) {
            size_t len = strlen(logger.scopes[i].prefix);

            if (len >= longest && !strncmp(scope, logger.scopes[i].prefix, len)) {
                longest = len;
                limit = logger.scopes[i].level;
            }
        }
        pthread_mutex_unlock(&logger.lock);
    }
    return level <= limit;
}

void log_timestamp(char buf[28])
{
    struct timespec now;
    struct tm tm;
    size_t n;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    n = strftime(buf, 28, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(buf + n, 28 - n, ".%06ldZ", now.tv_nsec / 1000);
}

const char *log_quote(char *buf, size_t size, const char *text)
{
    size_t len;

    if (size < 12)
        return "\"\"";
    buf[0] = '"';
    len = log_line_escape(buf, size - 1, 1, text, strlen(text));
    buf[len++] = '"';
    buf[len] = '\0';
    return buf;
}

static void write_line(enum log_level level, const char *scope, const char *error, const char *format,
                       va_list ap)
{
    char message[2048], text[LINE_MAX_BYTES], when[28];
    const struct log_line line = {when, level_names[level], scope, message, error};
    size_t n;

    vsnprintf(message, sizeof(message), format, ap);
    log_timestamp(when);
    n = log_line_format(&line, logger.json, text, sizeof(text));
    if (log_output(text, n) == 0)
        return;
    /* A program that has not called log_setup(). A line that cannot be written has nowhere else to go. */
    if (write(logger.fd, text, n) < 0)
        return;
}

void log_write(enum log_level level, const char *scope, const char *format, ...)
{
    va_list ap;

    if (!log_enabled(level, scope))
        return;
    va_start(ap, format);
    write_line(level, scope, NULL, format, ap);
    va_end(ap);
}

int log_write_errno(enum log_level level, const char *scope, int error, const char *format, ...)
{
    va_list ap;
    int e = error < 0 ? -error : error;

    if (log_enabled(level, scope)) {
        char text[128];

        va_start(ap, format);
        write_line(level, scope, strerror_r(e, text, sizeof(text)), format, ap);
        va_end(ap);
    }
    return -e;
}
