"""Making a model folder of a GGUF file: what it computes is what the model computed that the file was written from."""

import json

import pytest
import torch

from adaptthink.errors import UserError
from adaptthink.models.gguf import convert_gguf
from adaptthink.models.loading import load_model, load_tokenizer

NAMES = {  # of a layer's weights: in transformers, in GGUF
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def rename(name):
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, number, rest = name.split(".", 3)
    module, _, kind = rest.rpartition(".")
    return f"blk.{number}.{NAMES[module]}.{kind}"


@pytest.fixture
def gguf_file(tokenizer, random_model, tmp_path):
    """A GGUF file of a small random model, written by the package of llama.cpp."""
    gguf = pytest.importorskip("gguf")
    path, config = tmp_path / "model.gguf", random_model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.added_tokens_decoder)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if number in special else 1 for number in range(len(tokens))])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    for name, weight in random_model.named_parameters():
        writer.add_tensor(rename(name), weight.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_folder_is_the_model_that_was_written(gguf_file, random_model, tokenizer, tmp_path):
    folder = tmp_path / "made/model"
    folder.parent.mkdir()
    count = convert_gguf(gguf_file, folder)
    assert count == sum(parameter.numel() for parameter in random_model.parameters())
    made = load_model(str(folder), dtype=torch.float32)
    assert made.config.tie_word_embeddings
    assert "quantization_config" not in (folder / "config.json").read_text()
    ids = torch.arange(12)[None]
    torch.testing.assert_close(made(input_ids=ids).logits, random_model(input_ids=ids).logits)
    own = load_tokenizer(str(folder))
    text = "<|user|>47+8=?<|assistant|><think>\nAlright</think>"
    assert own(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert own.chat_template == tokenizer.chat_template


def test_the_command(gguf_file, tmp_path, run):
    status, out, _ = run("convert", gguf_file, tmp_path / "m", "--dtype", "bfloat16", "--json", tmp_path / "c.json")
    assert status == 0
    assert f"weights in {tmp_path / 'm'}; adaptthink doctor" in " ".join(out.split())
    assert json.loads((tmp_path / "c.json").read_text())["dtype"] == "bfloat16"
    assert load_model(str(tmp_path / "m"), dtype="auto").dtype == torch.bfloat16
    status, _, err = run("convert", gguf_file, tmp_path / "m")
    assert (status, err) == (2, f"adaptthink: '{tmp_path / 'm'}' exists; give a folder that does not\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("convert", "none.gguf", "m"), "no GGUF file 'none.gguf'"),
        (("convert", "bad.gguf", "m"), "cannot load the GGUF file 'bad.gguf': "),
        (
            ("doctor", "bad.gguf"),
            "model: 'bad.gguf' is a GGUF file, and a model folder is needed; adaptthink convert makes",
        ),
    ],
)
def test_bad_files(run, tmp_path, monkeypatch, args, message):
    if args[0] == "convert":
        pytest.importorskip("gguf")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(60))
    status, _, err = run(*args)
    assert (status, err.startswith(f"adaptthink: {message}")) == (2, True), err
    assert not (tmp_path / "m").exists()


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr("adaptthink.models.gguf.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package gguf: pip install '.\[gguf\]'"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "m")
