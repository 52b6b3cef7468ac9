"""Bad input: everything that a person, a node, a guest or a disk can get wrong, met on real daemons.

Each gives one clear error that names the field, the value and what is allowed, with exit code 2 for wrong usage and 1
for a failure; nothing is lost by it, and the next good call works.

| what is bad | tests |
| --- | --- |
| kernel that is no Image | test_images, tests/guest/test_programs.py (`test_what_is_no_kernel_is_refused_by_name`) |
| image hash mismatch: upload, damaged library, damaged blob on the coordinator | test_images |
| memory smaller than the kernel, larger than the node has | test_images, test_guests |
| unknown node, network, image, guest; second guest of one name | test_guests |
| migration to the node it is on, a full node, one that vanishes | test_guests, tests/faults/test_migration_faults.py |
| join with a used, expired, foreign, malformed token; node name that is taken | test_joining |
| certificate from another CA, at the coordinator, at an agent, as an agent | test_joining |
| oversize, truncated, deep, random messages at live listeners, links and HTTP | test_messages |
| tampered, replayed, re-ordered datagram | tests/unit/test_tunnel.py, tests/cluster/test_switch_tunnels.py |
| a guest that writes nonsense into virtqueues | test_virtqueues, tests/c/virtio_*_test.c |
| disk full: node, coordinator (blobs and store), the user's own | test_disk_full |
| port in use | test_folders_and_ports |
| state directory of a newer version (daemons, `$WHERRY_HOME`), in use, of somebody else | test_folders_and_ports |
| the command line: unknown words, impossible sizes, help with examples, lists with --json | test_command_line |
"""
