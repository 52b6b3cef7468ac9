"""Guest images: built from Debian packages, imported from files, kept by content hash."""
