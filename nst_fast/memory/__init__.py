"""How much memory a run takes, how much there is, and the tiles that make the one fit into the other.

May import: errors, network, options, system.
"""
