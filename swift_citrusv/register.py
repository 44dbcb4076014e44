"""The public way to register Citrus-V without the import hook: `from swift_citrusv.register import register`.

Importing this module registers with Transformers' Auto classes; `register()` also registers with ms-swift.
"""
from .plugin.register import register

__all__ = ['register']
