"""For `--external_plugins examples/citrusv_plugin.py`: registers Citrus-V if the installed import hook is off.

ms-swift runs this file under its own module name, so it must not use relative imports.
"""
from swift_citrusv.register import register

register()
