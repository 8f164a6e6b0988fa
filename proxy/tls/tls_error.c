/* SPDX-License-Identifier: Apache-2.0 */
/* Why a connection failed. */
#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>

#include "proxy/tls/tls_internal.h"

int tls_fail(struct tls *tls)
{
    unsigned long e = ERR_peek_last_error();
    const char *text = e ? ERR_reason_error_string(e) : NULL;

    if (!tls->reason)
        tls->reason = tls->established ? BRUMA_REASON_HTTP2_ERROR : BRUMA_REASON_TLS_HANDSHAKE_FAILED;
    if (!tls->error[0])
        snprintf(tls->error, sizeof(tls->error), "TLS: %s", text ? text : "the peer sent no valid record");
    ERR_clear_error();
    return -EPROTO;
}

int tls_protocol_error(struct tls *tls, const char *text)
{
    tls->reason = BRUMA_REASON_HTTP2_ERROR;
    snprintf(tls->error, sizeof(tls->error), "TLS: %s", text);
    return -EPROTO;
}
