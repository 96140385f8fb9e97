"""Short chat templates with the traits of the families' own, and tokenizers for them."""

from tests.worlds import byte_level

PATTERN = r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"  # Llama 3's, Qwen's kind
CHATML = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
LLAMA_3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
GEMMA = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]

EACH = "{% for m in messages %}"
TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
SYSTEM = (
    "{% if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
)
TRIMMED = (
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim }}"
    "{{ '<|eot_id|>' }}{% endfor %}"
)
HEADER = "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
TODAY = "Today Date: {{ strftime_now('%d %b %Y') }}"
THINK = "<think>\n\n</think>\n"

# family -> special tokens (the first is BOS, the last EOS), the traits of its template
FAMILIES = {
    "smollm2": (CHATML, SYSTEM + EACH + TURN + "{% endfor %}" + ASK),
    "qwen3": (
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        EACH
        + "{% set c = m.content.split('</think>')[-1] %}"
        + "{% if m.role == 'assistant' and loop.last %}"
        + "{{ '<|im_start|>assistant\n"
        + THINK
        + "\n' + c.lstrip('\n') + '<|im_end|>\n' }}"
        + "{% else %}{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endif %}"
        + "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        + "{% if enable_thinking is defined and enable_thinking is false %}"
        + "{{ '"
        + THINK
        + "\n' }}{% endif %}{% endif %}",
    ),
    "smollm3": (
        CHATML,
        "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}"
        "{%- set block = '' if enable_thinking else '" + THINK + "' -%}"
        "{{ '<|im_start|>system\nToday: ' ~ strftime_now('%d %B %Y') ~ '<|im_end|>\n' }}"
        + EACH
        + "{% if m.role == 'assistant' %}{% generation %}"
        + "{{ '<|im_start|>assistant\n' + block + m.content.lstrip('\n') + '<|im_end|>\n' }}"
        + "{% endgeneration %}{% else %}"
        + TURN
        + "{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' + block }}{% endif %}",
    ),
    "gemma3": (
        GEMMA,
        "{{ bos_token }}"
        + EACH
        + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        + "{{ raise_exception('no') }}{% endif %}"
        + "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
        + "{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    ),
    "granite": (
        ["<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"],
        "<|start_of_role|>system<|end_of_role|>{{ strftime_now('%B %d, %Y') }}<|end_of_text|>\n\n"
        + EACH
        + "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}"
        + "{% if loop.last and add_generation_prompt %}"
        + "{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}{% endfor %}",
    ),
    "olmo2": (  # roles are plain text
        ["<|endoftext|>"],
        "{{ bos_token }}"
        + EACH
        + "{% if m.role == 'user' %}{{ '<|user|>\n' + m.content + '\n' }}{% elif not loop.last %}"
        + "{{ '<|assistant|>\n' + m.content + eos_token + '\n' }}{% else %}"
        + "{{ '<|assistant|>\n' + m.content + eos_token }}{% endif %}"
        + "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
        + "{% endfor %}",
    ),
    "olmo3": (  # the last answer ends with another token
        [*CHATML],
        SYSTEM
        + EACH
        + "{% if m.role == 'user' or not loop.last %}"
        + TURN
        + "{% else %}{{ '<|im_start|>assistant\n' + m.content + eos_token }}{% endif %}"
        + "{% endfor %}"
        + ASK,
    ),
    "lfm2": (
        ["<|startoftext|>", "<|im_start|>", "<|im_end|>"],
        "{{- bos_token -}}" + EACH + TURN + "{% endfor %}" + ASK,
    ),
    "phi3": (  # the whole ends with EOS
        ["<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"],
        EACH
        + "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}"
        + "{% endif %}",
    ),
    "llama3": (LLAMA_3, "{{ bos_token }}" + EACH + TRIMMED + HEADER),  # always asks
    "llama3.2": (
        LLAMA_3,
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
        + TODAY
        + "\n\n<|eot_id|>"
        + EACH
        + TRIMMED
        + "{% if add_generation_prompt %}"
        + HEADER
        + "{% endif %}",
    ),
    "mistral": (
        ["<s>", "[INST]", "[/INST]", "</s>"],
        "{{ bos_token }}"
        + EACH
        + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        + "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    ),
    "command": (  # two tokens end a turn
        ["<s>", "<|response|>", "<|turn|>", "<|end_response|>", "<|end_turn|>"],
        "{{ bos_token }}"
        + EACH
        + "{% if m.role == 'user' %}{{ '<|turn|>user' + m.content + '<|end_turn|>' }}{% else %}"
        + "{{ '<|turn|>bot<|response|>' + m.content + '<|end_response|><|end_turn|>' }}"
        + "{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|turn|>bot<|response|>' }}{% endif %}",
    ),
    "tagged": (  # no generation prompt of its own
        CHATML,
        EACH
        + "{% if m.role == 'user' %}"
        + TURN
        + "{% else %}{{ '<|im_start|>assistant\n' }}"
        + "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
        + "{% endif %}{% endfor %}",
    ),
}


def make_tokenizer(special, jinja):
    corpus = ["a red boat is what you see user assistant model system\n\n"] * 9
    tokenizer = byte_level(
        corpus,
        special,
        special[0],
        PATTERN,
        eos_token=special[-1],
        unk_token=special[-1],  # as OLMo 2 and Granite have it
        additional_special_tokens=special,
    )
    tokenizer.chat_template = jinja
    return tokenizer
