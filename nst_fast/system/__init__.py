"""Files, the machine and clocks: atomic writes, locks, hashes, what hardware there is, time on a device.

May import: errors.
"""
