/* vec_avx512.c: the vectorised loops as AVX-512 does them: 64 bytes. */
#include "cpu/vec.h"

#define AN_VW 64
#include "cpu/vmath.h"

#include <math.h>

#include "cpu/norm_impl.h"

#include "cpu/elem_impl.h"

#include "cpu/lm_impl.h"

const an_vec an_vec_avx512 = {
    .gn_moments = gn_moments,
    .gn_apply = gn_apply,
    .layer_norm = layer_norm,
    .rms_norm = rms_norm,
    .activation = activation,
    .add = add,
    .scale = scale,
    .multiply = multiply,
    .softcap = softcap,
    .rope_angles = rope_angles,
    .rope_turn = rope_turn,
    .image_out = image_out,
    .image_in = image_in,
};
