# SPDX-License-Identifier: Apache-2.0
"""A call whose end is waited for elsewhere."""

import threading
import time


class Waiting:
    """Something that runs meanwhile."""

    def __init__(self, call):
        self.answers, self.begin = [], time.monotonic()
        self.thread = threading.Thread(target=lambda: self.answers.append(call()))
        self.thread.start()

    def result(self):
        self.thread.join(60)
        self.seconds = time.monotonic() - self.begin
        return self.answers[0]
