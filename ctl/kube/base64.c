/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/kube/base64.h"

#include <openssl/evp.h>
#include <string.h>

#include "lib/cleanup.h"

int base64_decode(const char *text, char **ret, size_t *ret_len)
{
    size_t len = strlen(text), n = 0, padding = 0;
    _cleanup_free_ unsigned char *dense = malloc(len + 1), *bytes = malloc(len + 1);

    if (!dense || !bytes)
        return -ENOMEM;
    for (size_t i = 0; i < len; i++) {
        if (!strchr(" \t\r\n", text[i]))
            dense[n++] = (unsigned char)text[i];
    }
    for (; n > padding && padding < 2 && dense[n - 1 - padding] == '='; padding++)
        ;
    if (n % 4 || n > (size_t)INT32_MAX || (n && EVP_DecodeBlock(bytes, dense, (int)n) != (int)(n / 4 * 3)))
        return -EBADMSG;
    *ret_len = n / 4 * 3 - padding;
    bytes[*ret_len] = '\0';
    *ret = (char *)take_pointer(bytes);
    return 0;
}

void base64_encode(const unsigned char *bytes, size_t len, char *buf)
{
    (void)EVP_EncodeBlock((unsigned char *)buf, bytes, (int)len);
}
