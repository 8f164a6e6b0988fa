# SPDX-License-Identifier: Apache-2.0
"""The judge: drives any node proxy over its outside and says which sentences of docs/hbone.md and docs/contract.md hold for it.
docs/conformance.md tells how to run it.

    judge.py      the command
    registry.py   what a case is, and what one says that does not hold
    site.py       the judged proxy's node, its pods and peers, and the control plane, CA and CNI agent around it
    report.py     text, JSON, JUnit
    cases         by area; each case names its sentence
    deviations    by proxy: cases that are known not to hold, and why
    not_judged.txt   numbered sentences without a case, and why
"""
