"""All registrations with ms-swift and all patches of it; no other room of the package patches it.

`register` is the entry point. Each other module patches one part of ms-swift: its docstring lists the symbols that it
replaces, and a comment "Why:" beside each patch gives the reason. `wrapping` checks the signature of what is replaced.
A patch does nothing in a run of another model: it calls ms-swift's own code. Heavy modules are imported inside the
patches, so that other runs do not pay for them.
"""
