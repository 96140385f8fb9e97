"""`python -m llava_sea.model.export_lmms`: one BOS, and the end that the template has."""

import pytest
import torch
from bos_case import with_bos
from model_world import write
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

from llava_sea.conversation import get_template
from llava_sea.errors import UserError
from llava_sea.model.export_lmms import fit_tokenizer, main
from llava_sea.model.load_weights import read_weights

MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a ball?"}]}]


@pytest.mark.parametrize(
    "name", ["clip-pad-v1", "clip-square-v1-legacy", "dinov2-pad-llava_v1-tied"]
)
def test_bos_comes_once(make_case, name, tmp_path, capsys):
    case = with_bos(make_case(name))
    write(case, tmp_path / "first")
    out = tmp_path / "out"
    main(["--model_path", str(tmp_path / "first"), "--output_dir", str(out)])
    assert "answers end at </s>" in capsys.readouterr().out
    found = {}
    for folder in (tmp_path / "first", out):
        tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
        text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
        found[folder.name] = [
            tokenizer(text, add_special_tokens=special).input_ids for special in (True, False)
        ]
    twice, once = found["first"]
    assert twice == [1, *once] and once[0] == 1 and once[1] != 1
    assert found["out"] == [once, once]
    first, second = read_weights(tmp_path / "first"), read_weights(out)
    assert all(torch.equal(first[key], second[key]) for key in first | second)


def test_an_answer_ends_where_the_template_does(make_case, tmp_path):
    case = make_case("siglip-pad-plain")  # three rows to spare
    case.tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    case.template = get_template("chatml_direct")
    write(case, tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == "</s>"
    assert fit_tokenizer(tmp_path) == "<|im_end|>"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.eos_token_id == case.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert len(tokenizer) == len(case.tokenizer) + 1  # <image>, and no other new token
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]


def test_a_caption_ends_as_the_llm_ends(make_case, tmp_path):
    write(make_case("siglip-pad-plain"), tmp_path)
    assert fit_tokenizer(tmp_path) == "</s>"


def test_what_else_a_post_processor_does_stays(make_case, tmp_path):
    case = make_case("clip-pad-v1")
    write(case, tmp_path)
    vocabulary = {"<bos>": 0, "</s>": 1, "a": 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    begin = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), begin])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="</s>", unk_token="a"
    )
    assert fast("a").input_ids == [0, 2]
    fast.save_pretrained(tmp_path)
    fit_tokenizer(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("a").input_ids == [2]
    assert '"ByteLevel"' in str(again.backend_tokenizer.to_str())


def test_a_full_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"holds other things \(file\)"):
        main(["--model_path", "anything", "--output_dir", str(tmp_path)])
