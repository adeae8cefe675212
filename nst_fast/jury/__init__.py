"""A neutral jury: scores any program's pictures against content and style, with measures no default objective uses.

May import: engines, errors, images, network, objective, options, run, system.
"""
