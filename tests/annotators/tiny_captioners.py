"""Captioners of a few thousand random weights in transformers' own folders, tokenizers included."""

WORDS = (
    "a an the cat dog bench man woman rocket cup of coffee on in with and is red blue two photo "
    "picture sitting standing question what answer there tall sky night day people street table"
).split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, *WORDS, *(f"word{number}" for number in range(60))]
SIZE = 32  # side of what the vision encoders see, px


def make_blip(folder, *, seed=0, **text):
    import torch
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipProcessor

    config = BlipConfig(
        text_config={
            "vocab_size": len(VOCABULARY) + 1,
            "bos_token_id": len(VOCABULARY),  # as in the released one, unknown to the tokenizer
            "sep_token_id": 3,
            "eos_token_id": 3,
            "pad_token_id": 0,
            "hidden_size": 32,
            "encoder_hidden_size": 32,
            "intermediate_size": 64,
            "projection_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "initializer_range": 0.3,
        }
        | text,
        vision_config=_vision(),
        projection_dim=32,
    )
    torch.manual_seed(seed)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(_image_processor(), _bert_tokenizer()).save_pretrained(folder)


def make_blip2(folder, *, seed=0):
    import torch
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        OPTConfig,
    )

    tokenizer = _bert_tokenizer()
    processor = Blip2Processor(_image_processor(), tokenizer, num_query_tokens=4)
    text = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        init_std=0.3,
    )
    config = Blip2Config(
        vision_config=_vision(),
        qformer_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "encoder_hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "cross_attention_frequency": 1,
            "initializer_range": 0.3,
        },
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(config)
    model.query_tokens.data.normal_()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def make_florence2(folder, *, seed=0):
    import torch
    from transformers import (
        BartConfig,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    tokenizer = _bert_tokenizer(
        bos_token="[CLS]",
        eos_token="[SEP]",
        extra_special_tokens={"image_token": "<image>"},
    )
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=128,
        init_std=0.3,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        decoder_start_token_id=3,
        forced_eos_token_id=3,
    )
    config = Florence2Config(
        text_config=text.to_dict(),
        vision_config={
            "depths": [1, 1, 1, 1],
            "embed_dim": [8, 16, 16, 32],
            "num_heads": [1, 2, 2, 4],
            "num_groups": [1, 2, 2, 4],
            "window_size": 4,
            "projection_dim": 32,
            "initializer_range": 0.3,
        },
        image_token_id=tokenizer.image_token_id,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    images = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False, resample=3)
    images.image_seq_length = 5  # 2 x 2 patches and their mean
    torch.manual_seed(seed)
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    Florence2Processor(images, tokenizer).save_pretrained(folder)


MAKERS = {"blip": make_blip, "blip-2": make_blip2, "florence2": make_florence2}


def _vision():
    return {
        "image_size": SIZE,
        "patch_size": 8,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.3,
    }


def _image_processor():
    from transformers import BlipImageProcessor

    return BlipImageProcessor(size={"height": SIZE, "width": SIZE})


def _bert_tokenizer(**special):
    from transformers import BertTokenizer

    return BertTokenizer(vocab={word: number for number, word in enumerate(VOCABULARY)}, **special)
