/* Any bytes as a .safetensors file: through the reader, the recognition of single-file checkpoints,
 * the description, and every tensor's data. Input that begins with a brace is a header by itself:
 * it gets its right length before it and, behind it, as many zeros as its last two bytes say, since
 * mutations seldom keep the lengths right. */
#include "anneal/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile unsigned sink; /* keeps the reads of the data alive */

/* Every tensor must lie within the file. */
static unsigned touch(const an_weights *w)
{
    unsigned sum = 0;
    for (int i = 0; i < an_weights_count(w); i++) {
        an_tensor t;
        if (!an_weights_find(w, an_weights_name(w, i), &t)) abort();
        const unsigned char *p = t.data;
        for (size_t k = 0; k < an_tensor_bytes(&t); k++) sum += p[k];
        if (an_tensor_count(&t) > 0 && an_tensor_count(&t) <= 4096) {
            float f[4096];
            if (an_tensor_to_f32(&t, f, NULL) == AN_OK) sum += f[0] > 0;
        }
    }
    return sum;
}

static bool write_input(int fd, const uint8_t *data, size_t size)
{
    if (size < 3 || data[0] != '{') return write(fd, data, size) == (ssize_t)size;
    static const uint8_t zeros[65536];
    size_t tail = (size_t)data[size - 2] << 8 | data[size - 1];
    uint64_t head = size - 2;
    return write(fd, &head, 8) == 8 && write(fd, data, size - 2) == (ssize_t)(size - 2) &&
           write(fd, zeros, tail) == (ssize_t)tail;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const parts[] = {"unet", "vae", "text_encoder", "text_encoder_2", "model"};
    char path[64];
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || !write_input(fd, data, size)) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    an_weights *w;
    an_checkpoint *c;
    an_error err;
    if (an_weights_open(path, &w, &err) == AN_OK) sink += touch(w);
    an_weights_close(w);
    if (an_checkpoint_open(path, &c, &err) == AN_OK) {
        for (int i = 0; i < 5; i++)
            if (an_checkpoint_weights(c, parts[i], &w, &err) == AN_OK) sink += touch(w);
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
