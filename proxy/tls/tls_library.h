/* SPDX-License-Identifier: Apache-2.0 */
/* OpenSSL as a library of this process. */
#ifndef PROXY_TLS_TLS_LIBRARY_H
#define PROXY_TLS_TLS_LIBRARY_H

/* Sets OpenSSL up for many handshakes; once per process, before the first key: keys made earlier can no
 * longer sign certificates. After tls_policy_choose(), for with FIPS nothing is set up. Cannot fail: what is
 * not possible with the OpenSSL at hand stays as OpenSSL does it, only slower. Afterwards a curve has its
 * X9.62 name alone ("prime256v1", not "P-256") when a key is made. */
void tls_library_init(void);

#endif
