"""The figures that upstream's author published with its crates, in January 2020: a column beside ours.

They are `cargo bench`'s on an m5dn.large of EC2 (two CPUs of a Xeon Platinum 8259CL at 2.50 GHz) with Linux 4.15, tokio
0.2.8 and a server on a second such machine. So they are to be compared with each other, not with a row of ours.
"""

SOURCE = "upstream's author, January 2020, EC2 m5dn.large, tokio 0.2.8, in ms"

# Milliseconds of one iteration: by work and strategy.
BLOCKING = {
    "noop direct": 0.052220,
    "noop dispatch_rx": 0.159234,
    "noop permit": 0.072940,
    "noop spawn_blocking": 0.147804,
    "expensive direct": 1.253295,
    "expensive dispatch_rx": 1.544520,
    "expensive permit": 1.272118,
    "expensive spawn_blocking": 1.574170,
    "sleep direct": 0.649913,
    "sleep dispatch_rx": 0.992531,
    "sleep permit": 0.800128,
    "sleep spawn_blocking": 1.624739,
    "noop intrusive": 0.074282,
    "expensive intrusive": 1.304930,
    "sleep intrusive": 6.811144,
}

# By scenario with its policy; bodies of 8 MiB with a Content-Length, 16 at a time.
# Each store had bodies in RAM beside it.
CLIENT = {
    None: {"ram": 58.528073, "ram_gather": 81.692816},
    "ext4": {
        "ram": 58.528073,
        "ram_gather": 81.692816,
        "fs_direct": 119.846890,
        "fs_permit": 141.334426,
        "fs_dispatch": 151.809679,
        "mmap_copy_direct": 137.397757,
        "mmap_copy_permit": 157.148683,
        "mmap_direct": 110.491801,
        "mmap_permit": 124.647965,
    },
    "tmpfs huge": {
        "ram": 58.392758,
        "ram_gather": 85.527831,
        "fs_direct": 94.056654,
        "fs_permit": 120.463257,
        "fs_dispatch": 130.157569,
        "mmap_copy_direct": 104.351507,
        "mmap_copy_permit": 129.762411,
        "mmap_direct": 79.705427,
        "mmap_permit": 99.289803,
    },
}
