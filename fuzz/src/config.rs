//! Configurations: ours in TOML, and those of other targets.

use crate::input::Input;

/// Words that get a random text further.
const WORDS: &[&str] = &[
    "[[unit]]\n",
    "[[target]]\n",
    "[[target.access]]\n",
    "[[vhost-user]]\n",
    "[[portal]]\n",
    "[daemon]\n",
    "[discovery]\n",
    "name = ",
    "store = ",
    "\"ram:1M\"\n",
    "\"/a\"\n",
    "\"a\"\n",
    "lun = 0\n",
    "units = { 0 = \"a\" }\n",
    "socket = ",
    "listen = ",
    "\"127.0.0.1:3260\"\n",
    "\"iqn.2026-11.org.example:a\"\n",
    "chap = { accounts = [{ name = \"x\", secret = { file = \"/a\" } }] }\n",
    "lu = \"disk:ram:1M,name=a,lun=1\"\n",
    "<target iqn.2026-11.org.example:a>\n",
    "</target>\n",
    "backing-store /a\n",
    "<backing-store /b>\n",
    "</backing-store>\n",
    "incominguser a secretpass12\n",
    "initiator-address ",
    "{ \"targets\": [",
    "]}",
    "{ \"fabric\": \"iscsi\", \"wwn\": \"iqn.2026-11.org.example:a\", \"tpgs\": [",
    "{ \"tag\": 1, \"luns\": [",
];

/// Whatever is written, reading it ends with a model or with mistakes, and what is printed of a model is read as the same.
pub fn config(data: &[u8]) {
    let mut input = Input::new(data);
    let which = input.below(4);
    let bytes = input.bytes(usize::MAX);
    match which {
        0 => lunette::fuzzing::configuration(bytes),
        1 => lunette::fuzzing::foreign_configuration(bytes),
        2 => lunette::fuzzing::configuration(&words(bytes)),
        _ => lunette::fuzzing::foreign_configuration(&words(bytes)),
    }
}

/// Each byte as a word, or as what it is.
fn words(bytes: &[u8]) -> Vec<u8> {
    let word = |byte: &u8| {
        WORDS.get(usize::from(*byte)).map_or_else(|| vec![*byte], |word| word.as_bytes().to_vec())
    };
    bytes.iter().flat_map(word).collect()
}
