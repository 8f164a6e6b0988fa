/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the HTTP server: one connection, from accept to close. libmicrohttpd reads, parses and writes,
 * and closes the descriptor; who is let in, how long a thing may take and what is refused is decided here.
 */
#ifndef LIB_RPC_HTTP_CONNECTION_H
#define LIB_RPC_HTTP_CONNECTION_H

#include <microhttpd.h>

#include "lib/rpc/client_limits.h"
#include "lib/rpc/http_server.h"

#define HTTP_HEAD_TIME 2000 /* milliseconds for the first head, from the connect on, and for a body */
#define HTTP_IDLE_TIME \
    90000 /* milliseconds from an answer to the next whole head: longer than usual scrape intervals */
#define HTTP_ANSWER_TIME \
    60000 /* milliseconds for the handler to answer, and again for the client to take the answer */
#define HTTP_LINGER_TIME 1000        /* milliseconds for the last bytes of a client that was told to go */
#define HTTP_BODY_MAX    (64 * 1024) /* bytes of a request, read and thrown away */
#define HTTP_MEMORY      (16 * 1024) /* bytes of a connection: the head of a request, then that of its answer */

struct http_server {
    struct loop *loop;
    http_request_fn fn;
    void *data;
    struct list listeners;
    struct client_limits clients;
    struct list connections; /* all that the library has, also those that are shut */
    size_t queued;           /* bytes of answers that clients have not taken yet */

    /* Of http_daemon.c. */
    struct MHD_Daemon *daemon;
    struct loop_watch events; /* the library's epoll */
    struct loop_watch wake;   /* an eventfd, for what that does not tell */
    bool running;             /* inside the library, which cannot be stopped from there */
    bool closed;
};

enum http_state {
    HTTP_READING,  /* the first head, or nothing of it yet */
    HTTP_IDLE,     /* has been served; the next head may have begun */
    HTTP_BODY,     /* skipping the request's body */
    HTTP_HANDLING, /* the handler has the request */
    HTTP_WRITING,  /* an answer */
};

struct http_connection {
    struct list node; /* in the server's connections */
    struct limited_client member;
    struct http_server *server;
    struct MHD_Connection *mhd; /* NULL: the library has not taken it up yet */
    struct loop_timer timer;
    struct loop_watch hangup; /* what the library may not see: its epoll is edge-triggered */
    int fd;
    enum http_state state;
    bool suspended;               /* the library leaves it alone until there is an answer */
    bool told;                    /* that it was too slow; its last bytes are not looked at */
    bool half_closed;             /* the client sends nothing */
    bool shut;                    /* no longer counted by clients; the library will find out */
    struct http_request *request; /* HTTP_BODY, HTTP_HANDLING */
    struct MHD_Response *answer;  /* to be given to the library, with the status */
    unsigned status;
};

struct http_request {
    struct http_connection *connection; /* NULL: nobody waits any more */
    const char *method, *target;        /* the library's; target is decoded and has no query */
};

/* 0 or -errno. To be called once. */
int http_daemon_start(struct http_server *server);
/* Closes all connections; frees the server once nothing can name it. */
void http_daemon_stop(struct http_server *server);

/* The library has something to do that its epoll does not tell. */
void http_connection_wake(struct http_server *server);
/* Takes the descriptor, also on failure: 0 or -errno. */
int http_connection_new(struct http_server *server, int fd, const struct peer_source *source);
/* The client sees the end now; the library lets go of it in a later turn. */
void http_connection_shut(struct http_connection *c);
/* The library has let go of it, or never had it: the struct goes at the end of the turn. */
void http_connection_free(struct http_connection *c);
/* The library has done what it can: the end of a client that says no more and waits for nothing. */
void http_connection_look(struct http_connection *c);
/* What the limits of the server ask: what closing it would cost. */
enum client_worth http_connection_worth(const struct limited_client *member);
/* Takes the request and the answer. NULL: there is none, and the client sees the end. */
void http_connection_answer(struct http_request *request, int status, struct MHD_Response *answer);

/* All three are what libmicrohttpd calls, on the loop's thread; data is the server. */
void http_connection_notified(void *data, struct MHD_Connection *mhd, void **context,
                              enum MHD_ConnectionNotificationCode what);
void http_connection_completed(void *data, struct MHD_Connection *mhd, void **context,
                               enum MHD_RequestTerminationCode how);
enum MHD_Result http_connection_request(void *data, struct MHD_Connection *mhd, const char *target,
                                        const char *method, const char *version, const char *upload,
                                        size_t *upload_len, void **context);

#endif
