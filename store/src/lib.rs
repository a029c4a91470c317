//! What a backing store is: the trait, scatter-gather buffers, the kernel I/O context, the RAM store and layers.
