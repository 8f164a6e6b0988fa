/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Live connections that move from a proxy to its successor: what the two processes say to each other, and how
 * a connection is written down. Both may be of other releases; docs/hand-over.md explains it.
 *
 * The agent makes one SOCK_SEQPACKET pair for the two and passes its ends on ("hand-over" and "take" in
 * protocol.h). It sees nothing of what goes through: secrets travel there and nowhere else. On this first
 * socket the old proxy says HELLO, the new one answers with its own; then the old one sends a LANE for each
 * of its workers, with one end of a pair that is made for it. All else is said on lanes.
 *
 *   old                         new
 *   HELLO {versions}       ->
 *                          <-   HELLO {version}       or REFUSED {text}: nothing is handed over
 *   LANE + descriptor      ->                         once for each worker
 *
 *   on a lane:
 *   UNIT (parts) + sockets ->                         the old one does not touch the connection any more
 *                          <-   IMPORTED              it is built, and no socket was touched
 *                          <-   REFUSED {text}        or it is not; the old one goes on with it
 *   YOURS                  ->                         the old one has forgotten it; the new one begins
 *   BACK                   ->                         or it went on with it: the new one forgets it
 *   END {moved, left, ...} ->                         nothing more comes on this lane
 *
 * Without an agent that makes the pair (ZDS), the old one connects to a socket file of the new one's before
 * that, and what is agreed on becomes the first socket:
 *   MEET + pidfd of itself ->
 *                          <-   WELCOME               or REFUSED {text, again}
 *
 * A lane that ends: what is not IMPORTED is nobody's but the old proxy's. What is IMPORTED and neither YOURS
 * nor BACK is the new one's once the old process is dead (by the pidfd that came with "take"), else the old
 * one's.
 *
 * A message is struct bruma_handover_head and a payload, together at most BRUMA_HANDOVER_MESSAGE_MAX bytes.
 * Payloads are fields in the encoding of protobuf, of varints and bytes alone. A field that a process does
 * not know may be passed over if its number is odd; one with an even number cannot, and the unit is refused.
 * Numbers are never used for something else. Endpoints are 18 bytes: an address as in lib/addr.h, and a port
 * in network order. Times are milliseconds from now on, or nanoseconds of CLOCK_MONOTONIC.
 */
#ifndef BRUMA_HANDOVER_H
#define BRUMA_HANDOVER_H

#include <stdint.h>

#define BRUMA_HANDOVER_VERSION     1           /* the lowest number that is spoken */
#define BRUMA_HANDOVER_VERSION_MAX 1           /* the highest number */
#define BRUMA_HANDOVER_MESSAGE_MAX 65536       /* bytes */
#define BRUMA_HANDOVER_FDS_MAX     253         /* descriptors beside a message: what the kernel takes */
#define BRUMA_HANDOVER_UNIT_MAX    (48u << 20) /* bytes of a unit, all parts together */
#define BRUMA_HANDOVER_PENDING_MAX (1u << 20)  /* bytes of a lane's units without an answer */

enum bruma_handover_kind {
    BRUMA_HANDOVER_HELLO = 1,
    BRUMA_HANDOVER_LANE = 2,
    BRUMA_HANDOVER_UNIT = 3,
    BRUMA_HANDOVER_IMPORTED = 4,
    BRUMA_HANDOVER_REFUSED = 5,
    BRUMA_HANDOVER_YOURS = 6,
    BRUMA_HANDOVER_BACK = 7,
    BRUMA_HANDOVER_END = 8,
    BRUMA_HANDOVER_MEET = 9,
    BRUMA_HANDOVER_WELCOME = 10,
};

/* In the byte order of the machine, which both are on. */
struct bruma_handover_head {
    uint8_t kind;
    uint8_t more; /* UNIT: another part of it follows */
    uint16_t zero;
    uint32_t unit; /* counted from 1 on each lane; 0 where it is about none */
};

/* Fields of HELLO, REFUSED and END. */
enum bruma_handover_field {
    BRUMA_HANDOVER_FIELD_VERSION = 2,     /* the lowest that is spoken, or the one that will be */
    BRUMA_HANDOVER_FIELD_VERSION_MAX = 3, /* HELLO of the old one */
    BRUMA_HANDOVER_FIELD_TEXT = 5,        /* why it is refused; END: why the last was left */
    BRUMA_HANDOVER_FIELD_MOVED = 7,       /* END: units */
    BRUMA_HANDOVER_FIELD_LEFT = 9,        /* END: connections that stay and drain; TEXT says why */
    BRUMA_HANDOVER_FIELD_PAUSE = 11,      /* END: microseconds that a unit stood still at most */
    BRUMA_HANDOVER_FIELD_SLOTS = 13,      /* HELLO of the old one: of its table of descriptors */
    BRUMA_HANDOVER_FIELD_AGAIN = 15,      /* REFUSED of MEET: 1, it may be possible in a moment */
};

/* Fields of a unit: first one of the three. */
enum bruma_unit_field {
    BRUMA_UNIT_RELAY = 2,
    BRUMA_UNIT_TUNNEL = 4,
    BRUMA_UNIT_UNDECIDED = 6,
    BRUMA_UNIT_SINCE = 7, /* nanoseconds of CLOCK_MONOTONIC: nobody has served it since then */
};

/* One that was accepted, and of which nothing was read: its socket. Whoever takes it decides as of one that
 * it has accepted itself. */
enum bruma_undecided_field {
    BRUMA_UNDECIDED_POD = 2,      /* uid */
    BRUMA_UNDECIDED_COOKIE = 4,   /* of the pod's network namespace */
    BRUMA_UNDECIDED_LISTENER = 6, /* enum bruma_undecided_listener */
    BRUMA_UNDECIDED_CLIENT = 8,   /* endpoints */
    BRUMA_UNDECIDED_DESTINATION = 10,
    BRUMA_UNDECIDED_OPENED = 11,  /* nanoseconds: when it began to be connected; left out: it has not yet */
    BRUMA_UNDECIDED_COUNTED = 13, /* 1, or left out: it counts as one that was opened */
};

enum bruma_undecided_listener {
    BRUMA_UNDECIDED_OUTBOUND = 1,
    BRUMA_UNDECIDED_PLAINTEXT = 2,
    BRUMA_UNDECIDED_HBONE = 3,
};

/* A relay: two sockets, in the order front, back. */
enum bruma_relay_field {
    BRUMA_RELAY_CONNECTION = 2,
    BRUMA_RELAY_OTHER = 4, /* between two pods: the same connection as the other pod has it */
    BRUMA_RELAY_FRONT = 6, /* sides */
    BRUMA_RELAY_BACK = 8,
    BRUMA_RELAY_TIMER = 10,         /* armed, and due in so many milliseconds */
    BRUMA_RELAY_IDLE = 12,          /* milliseconds since bytes were moved */
    BRUMA_RELAY_DELIVERY_PORT = 13, /* of BACK, to be used again later */
    BRUMA_RELAY_LEFT = 14,          /* last bytes that the timer looks at */
};

/* One side of it: each is 1, or left out. */
enum bruma_side_field {
    BRUMA_SIDE_ENDED = 2,
    BRUMA_SIDE_FIN = 4,
    BRUMA_SIDE_HUNG_UP = 6,
    BRUMA_SIDE_RESET = 8,
    BRUMA_SIDE_SHUT = 10,
    BRUMA_SIDE_UNSENT = 12, /* bytes that it has not taken */
    BRUMA_SIDE_BULK = 13,
};

/* A connection, whatever carries its bytes. */
enum bruma_connection_field {
    BRUMA_CONNECTION_POD = 2,     /* uid */
    BRUMA_CONNECTION_COOKIE = 4,  /* of the pod's network namespace */
    BRUMA_CONNECTION_INBOUND = 6, /* 1, or left out */
    BRUMA_CONNECTION_CLIENT = 8,  /* endpoints */
    BRUMA_CONNECTION_DESTINATION = 10,
    BRUMA_CONNECTION_ENDPOINT = 12,
    BRUMA_CONNECTION_FLOW = 14, /* left out: it is not open to telemetry */
    BRUMA_CONNECTION_PEER_IDENTITY = 16,
    BRUMA_CONNECTION_SAME_NODE = 18, /* identity in whose name the other pod was let through */
    BRUMA_CONNECTION_GATEWAY = 20,
    BRUMA_CONNECTION_OPENS_LATE = 22,
    BRUMA_CONNECTION_DRY_RUN = 23,
};

/* What its log line and metrics are made of. */
enum bruma_told_field {
    BRUMA_TOLD_SOURCE = 3, /* workloads, uids */
    BRUMA_TOLD_DESTINATION = 5,
    BRUMA_TOLD_SERVICE_NAMESPACE = 7,
    BRUMA_TOLD_SERVICE = 9, /* hostname */
    BRUMA_TOLD_SOURCE_ADDRESS = 11,
    BRUMA_TOLD_DESTINATION_ADDRESS = 13,
    BRUMA_TOLD_BAGGAGE = 15,
    BRUMA_TOLD_AUTHORITY = 17,
    BRUMA_TOLD_OPENED = 19, /* nanoseconds */
    BRUMA_TOLD_RECEIVED = 21,
    BRUMA_TOLD_SENT = 23,
    BRUMA_TOLD_RETRIES = 25,
    BRUMA_TOLD_RETRY_REASON = 27, /* name in reasons.h */
    BRUMA_TOLD_TENTATIVE = 29,
    BRUMA_TOLD_TRACE = 31, /* traceparent of its span, "-", its parent's ID */
};

/* A tunnel with its streams: one socket, then one of each stream that is open, in their order; in place of a
 * stream's that carries a tunnel those of that one's streams. */
enum bruma_tunnel_field {
    BRUMA_TUNNEL_POD = 2,    /* uid */
    BRUMA_TUNNEL_COOKIE = 4, /* of the pod's network namespace */
    BRUMA_TUNNEL_SERVER = 6, /* 1, or left out */
    BRUMA_TUNNEL_PEER = 8,   /* endpoints */
    BRUMA_TUNNEL_ARRIVAL = 10,
    BRUMA_TUNNEL_TLS = 12,
    BRUMA_TUNNEL_HTTP2 = 14,
    BRUMA_TUNNEL_STREAM = 16,        /* repeated */
    BRUMA_TUNNEL_LAST_RECEIVED = 19, /* milliseconds since bytes have come */
    BRUMA_TUNNEL_SMALL_WINDOWS = 20, /* flags: each is 1, or left out */
    BRUMA_TUNNEL_EXPIRED = 22,       /* the peer's certificate, and it was told so */
    BRUMA_TUNNEL_PING = 24,          /* milliseconds since a PING was sent that is not answered */
    BRUMA_TUNNEL_IDLE = 25,          /* milliseconds since the last stream has ended */
    BRUMA_TUNNEL_UNTRUSTED = 26,     /* the peer, by roots that have changed, and it was told so */
};

/* HTTP/2. Settings are as in a SETTINGS frame: 16 bits of number, 32 of value. The peer has no header table,
 * and has acknowledged that. */
enum bruma_http2_field {
    BRUMA_HTTP2_LOCAL_SETTINGS = 2, /* as the peer has acknowledged them */
    BRUMA_HTTP2_UNKNOWN_WINDOW = 4, /* repeated: of streams, said after them and not acknowledged */
    BRUMA_HTTP2_REMOTE_SETTINGS = 6,
    BRUMA_HTTP2_SEND_WINDOW = 8,     /* of the connection: bytes that may be sent */
    BRUMA_HTTP2_RECEIVE_WINDOW = 10, /* of the connection: bytes that the peer may send once all is read */
    BRUMA_HTTP2_RECEIVE_LEFT = 12,   /* and that it may send now */
    BRUMA_HTTP2_LAST_ID = 14,        /* the highest stream that the client has begun; 0: none */
    BRUMA_HTTP2_GOAWAY_SAID = 16,    /* the last stream that it named */
    BRUMA_HTTP2_GOAWAY_HEARD = 18,
    BRUMA_HTTP2_REST_HEADER = 20,   /* of a DATA frame of which a part has come */
    BRUMA_HTTP2_REST = 22,          /* bytes of it that have not */
    BRUMA_HTTP2_UNIT = 24,          /* the beginning of any other frame, or of HEADERS with CONTINUATION */
    BRUMA_HTTP2_SHUTTING_DOWN = 26, /* 1, or left out: the first of two GOAWAYs was said */
    BRUMA_HTTP2_CLOSED =
        27, /* repeated, the oldest first: twice a stream's number, and 1 if the peer ended it */
    BRUMA_HTTP2_RESET = 29,      /* the last stream that the peer has reset */
    BRUMA_HTTP2_TABLE_NONE = 31, /* the peer's headers have shown that it keeps no table: 1, or left out */
};

/* A stream of it: it is open, with the application's connection, or a peer's request that is not answered. */
enum bruma_stream_field {
    BRUMA_STREAM_CONNECTION = 2,
    BRUMA_STREAM_ID = 4,
    BRUMA_STREAM_LOCAL_END = 6, /* flags: END_STREAM was sent */
    BRUMA_STREAM_REMOTE_END = 8,
    BRUMA_STREAM_SHUT = 10,     /* and passed on to the application */
    BRUMA_STREAM_RESET = 12,    /* the application has reset its connection */
    BRUMA_STREAM_WINDOW = 14,   /* signed: bytes of WINDOW_UPDATEs that have come, less DATA that was sent */
    BRUMA_STREAM_RECEIVED = 16, /* bytes that no WINDOW_UPDATE has answered */
    BRUMA_STREAM_CREDIT = 18,   /* the same of the connection, not given back until they are read */
    BRUMA_STREAM_UNREAD = 20,   /* bytes that the application has not taken */
    BRUMA_STREAM_OWN = 22,      /* so many of them, the first, have not come from the peer */
    BRUMA_STREAM_TIMER = 24,    /* armed, and due in so many milliseconds */
    BRUMA_STREAM_IDLE = 25,     /* milliseconds since bytes were moved */
    BRUMA_STREAM_DELIVERY_PORT = 27,
    BRUMA_STREAM_REQUEST = 28, /* in place of CONNECTION: whoever takes it decides upon it anew */
    BRUMA_STREAM_INSIDE = 30,  /* it carries a tunnel, to a pod of another network behind a gateway */
};

/* That tunnel, and bytes on their way between the two. */
enum bruma_inside_field {
    BRUMA_INSIDE_TUNNEL = 2, /* enum bruma_tunnel_field, without a socket of its own */
    BRUMA_INSIDE_IN = 4,     /* of its TLS: have come for it */
    BRUMA_INSIDE_OUT = 6,    /* the same: it has said */
};

/* A request, all of it as its headers had it. */
enum bruma_request_field {
    BRUMA_REQUEST_AUTHORITY = 2,
    BRUMA_REQUEST_BAGGAGE = 4,
    BRUMA_REQUEST_FORWARDED = 6,
    BRUMA_REQUEST_FORWARDED_NETWORK = 8,
    BRUMA_REQUEST_OPENED = 9, /* as in enum bruma_undecided_field */
    BRUMA_REQUEST_COUNTED = 11,
    BRUMA_REQUEST_TRACEPARENT = 13,
};

/* TLS after its handshake. */
enum bruma_tls_field {
    BRUMA_TLS_SUITE = 2, /* its name in the standard; of TLS 1.2 OpenSSL's */
    BRUMA_TLS_SEAL_SECRET =
        4, /* of what is sent: the traffic secret of the keys in use; of TLS 1.2 key and IV */
    BRUMA_TLS_SEAL_SEQUENCE = 6,
    BRUMA_TLS_OPEN_SECRET = 8, /* the same of what is received */
    BRUMA_TLS_OPEN_SEQUENCE = 10,
    BRUMA_TLS_PARTIAL = 12,       /* the beginning of a record whose rest has not come */
    BRUMA_TLS_UNSENT = 14,        /* records that the socket has not taken; the first one is a part */
    BRUMA_TLS_PEER_IDENTITY = 16, /* verified */
    BRUMA_TLS_PEER_UNTIL = 18, /* seconds of the wall clock: the end of the first certificate of its chain */
    BRUMA_TLS_PEER_CHAIN = 20, /* repeated: DER, the peer's own first; only where revocation lists are used */
    BRUMA_TLS_MESSAGE_HEAD = 22, /* first bytes of a handshake message whose rest has not come */
    BRUMA_TLS_MESSAGE_LEFT = 24, /* bytes of it that have not */
    BRUMA_TLS_MESSAGE_DEBT = 25, /* see proxy/tls/tls_messages.h */
    BRUMA_TLS_ANSWER_OWED = 26,  /* the peer has asked for new keys: 1, or left out */
    BRUMA_TLS_ASKED_AGAIN = 28,  /* and once more */
    BRUMA_TLS_POLICY = 30,       /* COMPLIANCE_POLICY that its handshake was under; left out: none */
};

#endif
