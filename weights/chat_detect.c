/* SPDX-License-Identifier: Apache-2.0 */
/* chat_detect.c - which of the known chat templates a checkpoint's Jinja program is.
 *
 * A program is taken for a known one when it has that one's telling marks and nothing that would
 * write another text. */
#include "chat.h"
#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- ChatML's default system message ----------------------------------------------------------
 */

/* The constant that a program writes between these marks, "" where it has none.  False: it cannot
 * be told.  An occurrence that is joined to a variable ends its string literal before the end mark.
 */
static bool default_system(const char *jinja, char out[SPC_CHAT_SYSTEM_BYTES])
{
    static const char begin[] = "<|im_start|>system\\n", end[] = "<|im_end|>";

    out[0] = '\0';
    for (const char *at = strstr(jinja, begin); at; at = strstr(at, begin)) {
        char quote = at > jinja ? at[-1] : '\0', found[SPC_CHAT_SYSTEM_BYTES];
        size_t used = 0;

        at += sizeof begin - 1;
        if (quote != '\'' && quote != '"') return false;
        while (*at && *at != quote && strncmp(at, end, sizeof end - 1) != 0) {
            char c = *at++;

            if (c == '\\') {
                if (!*at) return false;
                c = *at == 'n' ? '\n' : *at;
                if (c != '\n' && c != '\\' && c != '\'' && c != '"') return false;
                at++;
            }
            if (used + 1 == sizeof found) return false;
            found[used++] = c;
        }
        if (*at == quote) continue;
        found[used] = '\0';
        if (used == 0 || (out[0] && strcmp(out, found) != 0)) return false;
        memcpy(out, found, used + 1);
    }
    return true;
}

/* ChatML under the name of the model whose system message it has. */
static bool take_chatml(const char *jinja, spc_chat_template *out)
{
    static const char *const named[] = {"qwen2", "qwen2.5", "smollm2"};
    char system[SPC_CHAT_SYSTEM_BYTES];

    if (!default_system(jinja, system)) return false;
    for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
        if (spc_chat_find(named[i], out) && strcmp(out->system, system) == 0) return true;
    }
    (void)spc_chat_find("chatml", out);
    memcpy(out->system, system, strlen(system) + 1);
    return true;
}

/* ---- telling marks ----------------------------------------------------------------------------
 */

enum { HAS_MAX = 6, LACKS_MAX = 6 };

/* All of `has` stand in the program, none of `lacks` does.  The first row that fits counts. */
typedef struct {
    const char *name;
    const char *has[HAS_MAX];
    const char *lacks[LACKS_MAX];
} telling;

static const telling programs[] = {
    {"qwen3",
     {"<|im_start|>", "<|im_end|>", "last_query_index", "enable_thinking is false",
      "<think>\\n\\n</think>\\n\\n"},
     {"'<think>\\n'", "bos_token"}},
    {"chatml",
     {"<|im_start|>", "'\\n' + message", "<|im_start|>assistant\\n"},
     {"think", "trim", "strip", "bos_token", "<|im_sep|>"}},
    {"chatml",
     {"<|im_start|>", "\"\\n\" + message", "<|im_start|>assistant\\n"},
     {"think", "trim", "strip", "bos_token", "<|im_sep|>"}},
    {"llama3.1",
     {"<|start_header_id|>", "<|eot_id|>", "Cutting Knowledge Date: December 2023\\n",
      "\"26 Jul 2024\"", "system_message = \"\"", "| trim"},
     {"think"}},
    {"llama3",
     {"bos_token", "<|start_header_id|>", "<|end_header_id|>\\n\\n", "<|eot_id|>", "| trim"},
     {"think", "Cutting Knowledge", "<|start_header_id|>system"}},
    {"gemma3",
     {"{{ bos_token }}", "<start_of_turn>", "<end_of_turn>\\n", "first_user_prefix", "+ '\\n\\n'",
      "| trim"},
     {"think"}},
    {"gemma2",
     {"{{ bos_token }}", "<start_of_turn>", "<end_of_turn>\\n", "System role not supported",
      "| trim"},
     {"think"}},
    {"llama2",
     {"<<SYS>>\\n", "\\n<</SYS>>\\n\\n", "bos_token + '[INST] ' + content", "strip", "+ ' [/INST]'",
      "' ' + eos_token"},
     {"not '<<SYS>>'", "DEFAULT_SYSTEM"}},
    {"mistral-v1",
     {"\" [INST] \" + system_message + \"\\n\\n\"", "+ \" [/INST]\"", "loop.first", "eos_token"},
     {"<<SYS>>", "strip", "trim"}},
    {"mistral-v3",
     {"\"[INST] \" + system_message + \"\\n\\n\"", "+ \"[/INST]\"", "loop.last",
      "\" \" + message[\"content\"]|trim + eos_token"},
     {"<<SYS>>"}},
    {"mistral-nemo",
     {"\"[INST]\" + system_message + \"\\n\\n\"", "+ \"[/INST]\"", "loop.last",
      "message[\"content\"] + eos_token"},
     {"<<SYS>>", "\" \" + message", "trim"}},
    {"phi3.5",
     {"== 'system' and message['content'] %}",
      "'<|system|>\\n' + message['content'] + '<|end|>\\n'",
      "'<|user|>\\n' + message['content'] + '<|end|>\\n'",
      "'<|assistant|>\\n' + message['content'] + '<|end|>\\n'", "'<|assistant|>\\n' }}"},
     {"think", "trim", "strip", "bos_token", "raise_exception"}},
    {"phi3",
     {"== 'system' %}", "'<|system|>\\n' + message['content'] + '<|end|>\\n'",
      "'<|user|>\\n' + message['content'] + '<|end|>\\n'",
      "'<|assistant|>\\n' + message['content'] + '<|end|>\\n'", "'<|assistant|>\\n' }}"},
     {"think", "trim", "strip", "bos_token", "raise_exception"}},
    {"phi4-mini",
     {"'<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}", "'<|assistant|>' }}"},
     {"think", "trim", "strip", "bos_token", "\\n"}},
    {"phi4",
     {"'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'",
      "'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'",
      "'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'",
      "'<|im_start|>assistant<|im_sep|>' }}"},
     {"think", "trim", "strip", "bos_token", "\\n"}},
    {"deepseek-r1",
     {"{{bos_token}}{{ns.system_prompt}}", "User\xef\xbd\x9c>' + message['content']}}",
      "content.split('</think>')[-1]", "Assistant\xef\xbd\x9c>' + content + '<",
      "Assistant\xef\xbd\x9c><think>\\n'}}"},
     {"is_first_sp", "trim", "strip", "enable_thinking"}},
    {"deepseek-r1-old",
     {"{{bos_token}}{{ns.system_prompt}}", "User\xef\xbd\x9c>' + message['content']}}",
      "content.split('</think>')[-1]", "Assistant\xef\xbd\x9c>' + content + '<",
      "Assistant\xef\xbd\x9c>'}}"},
     {"is_first_sp", "trim", "strip", "<think>"}},
    {"mistral-v1-old",
     {"bos_token", "'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token"},
     {"<<SYS>>", "eos_token + ' '", "eos_token+' '", "strip", "trim", "system"}},
};

static bool fits(const telling *t, const char *jinja)
{
    for (int i = 0; i < HAS_MAX && t->has[i]; i++) {
        if (!strstr(jinja, t->has[i])) return false;
    }
    for (int i = 0; i < LACKS_MAX && t->lacks[i]; i++) {
        if (strstr(jinja, t->lacks[i])) return false;
    }
    return true;
}

/* The program with every line end inside a string literal written as \\n, which means the same: in
 * tokenizer_config.json some publishers escape it once, others twice.  malloc'd; NULL: no memory.
 */
static char *escape_line_ends(const char *jinja)
{
    char *out = malloc(2 * strlen(jinja) + 1), *to = out, quote = '\0';
    bool code = false;

    if (!out) return NULL;
    while (*jinja) {
        if (!quote && jinja[0] == '{' && (jinja[1] == '{' || jinja[1] == '%')) code = true;
        if (!quote && (jinja[0] == '%' || jinja[0] == '}') && jinja[1] == '}') code = false;
        if (code && !quote && (*jinja == '\'' || *jinja == '"')) {
            quote = *jinja;
        } else if (*jinja == quote) {
            quote = '\0';
        } else if (quote && jinja[0] == '\\' && jinja[1]) {
            *to++ = *jinja++;
        } else if (quote && *jinja == '\n') {
            *to++ = '\\';
            *to++ = 'n';
            jinja++;
            continue;
        }
        *to++ = *jinja++;
    }
    *to = '\0';
    return out;
}

/* The same for a program whose literals have no line ends. */
static spc_status recognise(const char *where, const char *jinja, spc_chat_template *out,
                            spc_error *err)
{
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        if (!fits(&programs[i], jinja)) continue;
        if (strcmp(programs[i].name, "chatml") != 0) {
            (void)spc_chat_find(programs[i].name, out);
            return SPC_OK;
        }
        if (take_chatml(jinja, out)) return SPC_OK;
    }
    return spc_error_set(err, SPC_EMODEL,
                         "%s: this chat template is not one of those known: if one of them fits, "
                         "name it (chat-template): " SPC_CHAT_NAMES,
                         where);
}

spc_status spc_chat_recognise(const char *where, const char *jinja, spc_chat_template *out,
                              spc_error *err)
{
    char *program = escape_line_ends(jinja);
    spc_status status;

    if (!program) return spc_error_set(err, SPC_ENOMEM, "%s: no memory to read it", where);
    status = recognise(where, program, out, err);
    free(program);
    return status;
}

/* ---- where a model keeps it -------------------------------------------------------------------
 */

static spc_status no_template(const char *where, spc_error *err)
{
    return spc_error_set(err, SPC_EMODEL,
                         "%.100s: no chat template (chat_template.jinja, or chat_template in "
                         "tokenizer_config.json or the GGUF file): a base model? name one "
                         "(chat-template) if it was trained on it: " SPC_CHAT_NAMES,
                         where);
}

/* The program of a file of the model's own, which need not be terminated. */
static spc_status detect_file(spc_bundle *bundle, const char *where, const char *name,
                              spc_chat_template *out, spc_error *err)
{
    const char *data;
    size_t bytes;
    spc_status status = spc_bundle_file(bundle, name, &data, &bytes, err);

    if (status != SPC_OK) return status;

    char *text = malloc(bytes + 1);

    if (!text) return spc_error_set(err, SPC_ENOMEM, "%s: no memory to read it", where);
    memcpy(text, data, bytes);
    text[bytes] = '\0';
    status = spc_chat_recognise(where, text, out, err);
    free(text);
    return status;
}

/* The text of "default" in [{"name": ..., "template": ...}, ...], or NULL. */
static const char *default_of(const json_t *list)
{
    size_t i;
    json_t *item;

    json_array_foreach((json_t *)(uintptr_t)list, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));

        if (name && strcmp(name, "default") == 0) {
            return json_string_value(json_object_get(item, "template"));
        }
    }
    return NULL;
}

static spc_status detect_json(const char *model, const char *where, const json_t *root,
                              spc_chat_template *out, spc_error *err)
{
    const json_t *chat = json_object_get(root, "chat_template");
    const char *text = json_is_array(chat) ? default_of(chat) : json_string_value(chat);

    if (!json_is_object(root)) {
        return spc_error_set(err, SPC_EFORMAT, "%s: expected a JSON object", where);
    }
    if (!chat || json_is_null(chat)) return no_template(model, err);
    if (!text) {
        return spc_error_set(err, SPC_EFORMAT,
                             "%s: chat_template: expected a text, or a list of named ones with one "
                             "named 'default'",
                             where);
    }
    return spc_chat_recognise(where, text, out, err);
}

spc_status spc_chat_detect(spc_bundle *bundle, spc_chat_template *out, spc_error *err)
{
    static const char jinja[] = "chat_template.jinja", config[] = "tokenizer_config.json";
    const char *model = spc_bundle_where(bundle), *name, *data;
    bool own_file = spc_bundle_has_file(bundle, jinja);
    char where[160];
    size_t bytes;
    json_error_t problem;

    name = own_file ? jinja : config;
    (void)snprintf(where, sizeof where, "%.120s/%s", model, name);
    if (own_file) return detect_file(bundle, where, name, out, err);
    if (!spc_bundle_has_file(bundle, config)) return no_template(model, err);

    spc_status status = spc_bundle_file(bundle, config, &data, &bytes, err);

    if (status != SPC_OK) return status;

    json_t *root = json_loadb(data, bytes, JSON_REJECT_DUPLICATES, &problem);

    if (!root) return spc_json_refused(where, &problem, data, err);
    status = detect_json(model, where, root, out, err);
    json_decref(root);
    return status;
}
