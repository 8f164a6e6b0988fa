/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the HTTP server: one connection, from accept to close. */
#ifndef LIB_HTTP_CONNECTION_H
#define LIB_HTTP_CONNECTION_H

#include "lib/rpc/crowd.h"
#include "lib/rpc/http_server.h"

#define HTTP_HEAD_TIME   2000  /* milliseconds for a whole head, from the connect or from its first byte on */
#define HTTP_IDLE_TIME   90000 /* between two requests: longer than usual scrape intervals */
#define HTTP_ANSWER_TIME 60000 /* for the handler to answer, and again for the client to take the answer */
#define HTTP_LINGER_TIME 1000
#define HTTP_BODY_MAX    (64 * 1024)

struct http_body {
    unsigned references;
    char *text, *gzip; /* gzip may be NULL */
    size_t text_len, gzip_len;
    struct http_server *server; /* whose queued counts it; NULL: nobody's */
};

struct http_server {
    struct loop *loop;
    http_request_fn fn;
    void *data;
    struct list listeners;
    struct crowd crowd;
    size_t queued; /* bytes of answers that clients have not taken yet */
};

enum http_state {
    HTTP_READING,   /* a head, or nothing of it yet */
    HTTP_BODY,      /* skipping the request's body */
    HTTP_HANDLING,  /* the handler has the request */
    HTTP_WRITING,   /* an answer */
    HTTP_LINGERING, /* said all; the client's last bytes are read, or the close would destroy the answer */
};

struct http_connection {
    struct crowd_member member;
    struct http_server *server;
    struct loop_watch watch;
    struct loop_timer timer;
    int fd;
    enum http_state state;
    struct http_request *request; /* HTTP_BODY, HTTP_HANDLING */
    char in[HTTP_HEAD_MAX];
    size_t in_len;
    uint64_t body_left;         /* of the request, to be skipped */
    bool started;               /* bytes of the next head have come */
    bool busy;                  /* inside http_connection_go(): answers are sent from there */
    bool closed;                /* freed at the end of the turn */
    bool last;                  /* close after the answer */
    bool chunked;               /* pieces are framed */
    bool resume;                /* the timer is for the requests that are in the buffer */
    char *head, *body;          /* of the answer */
    struct http_pieces *pieces; /* body is one of them; or NULL */
    struct http_body *shared;   /* whose text body is; or NULL, and body is the connection's own */
    size_t head_len, body_len, sent;
};

struct http_request {
    struct http_connection *connection; /* NULL: nobody waits any more */
    struct http_head head;              /* points into text */
    char text[];
};

/* Takes the descriptor, also on failure. */
int http_connection_new(struct http_server *server, int fd, const struct peer_source *source);
void http_connection_close(struct http_connection *c);
enum crowd_worth http_connection_worth(const struct crowd_member *member);

#endif
