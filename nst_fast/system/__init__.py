"""Files, the machine, clocks and threads: atomic writes, locks, hashes, what hardware there is, time on a device.

May import: errors.
"""
