"""The web page: its forms, how it is rendered, its templates and the files that it loads."""
