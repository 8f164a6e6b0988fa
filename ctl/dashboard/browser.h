/* SPDX-License-Identifier: Apache-2.0 */
/* The operator's browser. */
#ifndef CTL_DASHBOARD_BROWSER_H
#define CTL_DASHBOARD_BROWSER_H

#define BROWSER_FILE_MAX 512 /* bytes of a path with its NUL */

/* Opens the URL by xdg-open, where there is a terminal and a display and this is not root. The command line
 * of a program is everybody's to read, and the URL is not: it stands in a file of the user's own, whose path
 * is left in file ("" if there is none) for browser_forget(). */
void browser_open(const char *url, char file[BROWSER_FILE_MAX]);
/* Removes that file. */
void browser_forget(const char *file);

#endif
