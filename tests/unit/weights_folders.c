/* Folders as the hub has them: names, variants, shards, configs, and the contract's messages. */
#include "test.h"
#include "anneal/weights.h"

#include <jansson.h>

TEST(golden_sd1_folder)
{
    an_error err = {0};
    an_checkpoint *c;
    REQUIRE(an_checkpoint_open(AN_GOLDEN "/sd1/model", &c, &err) == AN_OK);
    CHECK(an_checkpoint_layout(c) == AN_LAYOUT_DIFFUSERS);
    CHECK_STR(an_checkpoint_class(c), "StableDiffusionPipeline");
    const json_t *unet = an_checkpoint_config(c, "unet");
    CHECK(json_integer_value(json_object_get(unet, "cross_attention_dim")) == 32);
    CHECK_STR(
        json_string_value(json_object_get(an_checkpoint_config(c, "scheduler"), "_class_name")),
        "PNDMScheduler");
    CHECK(an_checkpoint_config(c, "text_encoder_2") == NULL);
    CHECK(an_checkpoint_config(c, "safety_checker") == NULL);

    an_weights *w, *again;
    an_tensor t;
    REQUIRE(an_checkpoint_weights(c, "unet", &w, &err) == AN_OK);
    CHECK(an_checkpoint_weights(c, "unet", &again, &err) == AN_OK && again == w);
    CHECK(an_weights_get(w, "conv_in.weight", 4, (int64_t[]){16, 4, 3, 3}, &t, &err) == AN_OK);
    CHECK(an_weights_get(w, "conv_in.weight", 4, (int64_t[]){16, 9, 3, 3}, &t, &err) == AN_INVALID);
    CHECK_STR(err.message, "unet/conv_in.weight: shape [16,4,3,3], expected [16,9,3,3]");
    CHECK(an_weights_get(w, "conv_in.wight", 1, (int64_t[]){16}, &t, &err) == AN_INVALID);
    CHECK_STR(err.message, "unet/conv_in.wight: missing, expected [16]");
    CHECK_STR(an_weights_metadata(w, "format"), "pt");
    CHECK(an_weights_metadata(w, "other") == NULL);

    REQUIRE(an_checkpoint_weights(c, "text_encoder", &w, &err) == AN_OK);
    CHECK(an_weights_find(w, "encoder.layers.1.mlp.fc1.weight", &t));
    CHECK(!an_weights_find(w, "text_model.encoder.layers.1.mlp.fc1.weight", &t));
    REQUIRE(an_checkpoint_weights(c, "vae", &w, &err) == AN_OK);
    CHECK(an_weights_find(w, "decoder.mid_block.attentions.0.to_out.0.weight", &t));
    CHECK(!an_weights_find(w, "decoder.mid_block.attentions.0.proj_attn.weight", &t));
    CHECK(an_checkpoint_weights(c, "text_encoder_2", &w, &err) == AN_NOT_FOUND);
    char dir[512];
    CHECK(an_checkpoint_dir(c, "tokenizer", dir, sizeof dir));
    CHECK(!an_checkpoint_dir(c, "tokenizer_2", dir, sizeof dir));
    CHECK(!an_checkpoint_dir(c, "tokenizer", dir, 4));
    an_checkpoint_close(c);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
