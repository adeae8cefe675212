"""Every option of every command, declared once: type, default, range, help; presets are named values of them.

May import: errors, network, system.
"""
