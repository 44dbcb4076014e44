"""For `--external_plugins examples/citrusv_plugin.py`: registers Citrus-V where the installed import hook is off.

ms-swift runs this file under a name of its own; it must not use relative imports.
"""
from swift_citrusv.plugin.register import register

register()
