"""Everything that touches ms-swift's registries or replaces its methods; nothing else in the package patches it.

Each patch has its reason beside it and checks the shape of what it replaces. What a patch does stands in other rooms.
"""
