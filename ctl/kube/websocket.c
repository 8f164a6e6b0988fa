/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/kube/websocket.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "ctl/kube/base64.h"

#define FINAL  0x80
#define MASKED 0x80
#define GUID   "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

static bool is_control(unsigned opcode)
{
    return opcode >= WEBSOCKET_CLOSE;
}

static bool is_opcode(unsigned opcode)
{
    return opcode <= WEBSOCKET_BINARY || (opcode >= WEBSOCKET_CLOSE && opcode <= WEBSOCKET_PONG);
}

int websocket_header_read(const unsigned char *bytes, size_t len, struct websocket_frame *ret)
{
    unsigned opcode, extra;
    uint64_t payload;

    if (len < 2)
        return 0;
    opcode = bytes[0] & 0x0f;
    payload = bytes[1] & 0x7f;
    /* Reserved bits belong to extensions, of which none was asked for; servers do not mask. */
    if ((bytes[0] & 0x70) || (bytes[1] & MASKED) || !is_opcode(opcode) ||
        (is_control(opcode) && (payload > 125 || !(bytes[0] & FINAL))))
        return -EBADMSG;
    extra = payload == 127 ? 8 : payload == 126 ? 2 : 0;
    if (len < 2 + extra)
        return 0;
    if (extra)
        payload = 0;
    for (unsigned i = 0; i < extra; i++)
        payload = payload << 8 | bytes[2 + i];
    if (payload > WEBSOCKET_PAYLOAD_MAX)
        return -EBADMSG;
    *ret =
        (struct websocket_frame){(enum websocket_opcode)opcode, bytes[0] & FINAL, 2 + extra, (size_t)payload};
    return 1;
}

size_t websocket_header_write(enum websocket_opcode opcode, size_t payload, const unsigned char mask[4],
                              unsigned char buf[WEBSOCKET_HEADER_MAX])
{
    unsigned extra = payload > UINT16_MAX ? 8 : payload > 125 ? 2 : 0;

    buf[0] = (unsigned char)(FINAL | opcode);
    buf[1] = (unsigned char)(MASKED | (extra == 8 ? 127 : extra ? 126 : payload));
    for (unsigned i = 0; i < extra; i++)
        buf[2 + i] = (unsigned char)((uint64_t)payload >> (8 * (extra - 1 - i)));
    memcpy(buf + 2 + extra, mask, 4);
    return 2 + extra + 4;
}

void websocket_mask(unsigned char *bytes, size_t len, const unsigned char mask[4], size_t at)
{
    for (size_t i = 0; i < len; i++)
        bytes[i] ^= mask[(at + i) % 4];
}

void websocket_key(char buf[WEBSOCKET_KEY_LEN])
{
    unsigned char bytes[16] = {};

    (void)RAND_bytes(bytes, sizeof(bytes)); /* it is not a secret: it shows that the server has read it */
    base64_encode(bytes, sizeof(bytes), buf);
}

void websocket_accept(const char *key, char buf[WEBSOCKET_ACCEPT_LEN])
{
    unsigned char digest[EVP_MAX_MD_SIZE] = {};
    unsigned len = 20;
    char text[128];

    snprintf(text, sizeof(text), "%.80s" GUID, key);
    (void)EVP_Digest(text, strlen(text), digest, &len, EVP_sha1(), NULL);
    base64_encode(digest, 20, buf);
}
