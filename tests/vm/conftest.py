# SPDX-License-Identifier: Apache-2.0
"""Tests of the distribution's own kernel; tests/vm/run.sh runs them in an emulated machine. They run anywhere else, too."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
