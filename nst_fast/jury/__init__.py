"""The jury: scores pictures of any program against content and style, by measures that no default objective uses.

May import: engines, errors, images, network, objective, options, system.
"""
