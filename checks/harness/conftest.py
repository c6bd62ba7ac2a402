"""The harness is tested through its own Python door; the plugin's own tests start fresh pytest processes."""

pytest_plugins = ["pytester"]
