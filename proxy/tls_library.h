/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROXY_TLS_LIBRARY_H
#define PROXY_TLS_LIBRARY_H

/* Sets OpenSSL up for many handshakes; once per process, before the first context. Cannot fail: what is not
 * possible with the OpenSSL at hand stays as OpenSSL does it, only slower. Afterwards a curve is known by its
 * name in X9.62 ("prime256v1"), no longer by that of NIST, when a key is made. */
void tls_library_init(void);

#endif
