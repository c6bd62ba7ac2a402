"""What every test of the harness needs: runs that it starts can be interrupted, also where the tests themselves cannot."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background job, whose children would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)
