/* Any bytes as a .gguf file: through the reader, the config and the names that are made of it, the
 * description, and every tensor's data. Input that does not begin with the magic number gets a
 * header before it, with the counts of its first two bytes. */
#include "anneal/weights.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile unsigned sink; /* keeps the reads of the data alive */

/* Every tensor must lie within the file, and blocks must be whole. */
static unsigned touch(const an_weights *w)
{
    unsigned sum = 0;
    for (int i = 0; i < an_weights_count(w); i++) {
        an_tensor t;
        if (!an_weights_find(w, an_weights_name(w, i), &t)) abort();
        if (t.dim[t.ndim - 1] % an_dtype_block(t.dtype)) abort();
        const unsigned char *p = t.data;
        for (size_t k = 0; k < an_tensor_bytes(&t); k++) sum += p[k];
        if (an_tensor_count(&t) <= 4096) {
            float f[4096];
            if (an_tensor_to_f32(&t, f, NULL) == AN_OK) sum += f[0] > 0;
        }
    }
    return sum;
}

static bool write_input(int fd, const uint8_t *data, size_t size)
{
    if (size < 2 || data[0] == 'G') return write(fd, data, size) == (ssize_t)size;
    uint64_t counts[2] = {data[0], data[1]};
    return write(fd, "GGUF\3\0\0\0", 8) == 8 && write(fd, counts, 16) == 16 &&
           write(fd, data + 2, size - 2) == (ssize_t)(size - 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || !write_input(fd, data, size)) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    an_weights *w;
    an_checkpoint *c;
    an_error err;
    if (an_checkpoint_open(path, &c, &err) == AN_OK) {
        const json_t *config = an_checkpoint_config(c, "model");
        if (an_checkpoint_layout(c) == AN_LAYOUT_GGUF && !json_is_object(config)) abort();
        if (an_checkpoint_weights(c, "model", &w, &err) == AN_OK) sink += touch(w);
        an_checkpoint_close(c);
    }
    for (int json = 0; json < 2; json++) {
        an_buf out;
        an_buf_init(&out, 16u << 20);
        an_checkpoint_describe(path, json, &out, &err);
        an_buf_free(&out);
    }
    close(fd);
    return 0;
}
