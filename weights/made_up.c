/* made_up.c: tensors of whatever shape is asked for, of small random numbers, so that a model can
 * be timed where its configs are and its weights are not: how fast a network runs depends on its
 * shapes, not on what it has learned. All tensors are views of the same few megabytes, mapped again
 * and again behind one another, so that the largest costs no more memory than the smallest. */
#include "checkpoint.h"

#include <sys/mman.h>
#include <unistd.h>

#define PIECE ((size_t)32 << 20)
#define MOST  ((size_t)8 << 30) /* of one tensor; reserved as addresses alone */

/* BF16 numbers, uniform in -1/32 .. 1/32: no activation grows through a thousand of them. */
static void fill(uint16_t *to, size_t count)
{
    uint64_t state = 1;
    for (size_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        to[i] = an_f32_to_bf16(((float)(state >> 40) / (float)(1 << 23) - 1) / 32);
    }
}

static bool map_noise(char *at)
{
    const int fd = memfd_create("anneal weights", MFD_CLOEXEC);
    bool ok = fd >= 0 && ftruncate(fd, (off_t)PIECE) == 0;
    for (size_t off = 0; ok && off < MOST; off += PIECE)
        ok = mmap(at + off, PIECE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) !=
             MAP_FAILED;
    if (ok) fill((uint16_t *)(void *)at, PIECE / sizeof(uint16_t));
    if (fd >= 0) close(fd);
    return ok;
}

an_status an_set_make_up(const char *path, const char *label, an_weights **out, an_error *err)
{
    an_status s = an_set_new(path, label, out, err);
    if (s) return s;
    void *at = mmap(NULL, MOST, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at != MAP_FAILED) (*out)->made_up = at;
    if (at != MAP_FAILED && map_noise(at)) return AN_OK;
    an_weights_close(*out);
    *out = NULL;
    return an_fail(err, AN_NO_MEMORY, "%s: no memory for made-up weights", path);
}

void an_set_forget_made_up(an_weights *w)
{
    if (w->made_up) munmap(w->made_up, MOST);
}

an_status an_set_made_up(const an_weights *w, const char *name, int ndim, const int64_t *dim,
                         an_tensor *out, an_error *err)
{
    size_t bytes = sizeof(uint16_t);
    bool ok = ndim >= 1 && ndim <= AN_MAX_DIMS;
    *out = (an_tensor){w->made_up, AN_BF16, ndim, {1, 1, 1, 1, 1}};
    for (int i = 0; ok && i < ndim; i++) {
        out->dim[i] = dim[i];
        ok = dim[i] > 0 && an_mul_size(bytes, (size_t)dim[i], &bytes);
    }
    if (ok && bytes <= MOST) return AN_OK;
    char want[160];
    return an_fail(err, AN_INVALID, "%s/%s: %s cannot be made up: at most %zu bytes of BF16",
                   w->label, name, an_shape_str(ndim, dim, want, sizeof want), MOST);
}

void an_checkpoint_make_up(an_checkpoint *c)
{
    c->made_up = true;
}
