"""What runs over a guest's byte channels: the QEMU guest agent protocol, consoles."""
