"""How long a test waits for another process or a server before it calls that a hang: no test depends on the clock.

A machine with two cores and twenty workers makes a child that takes three seconds take three minutes.
"""

HANGS = 1_800  # seconds
