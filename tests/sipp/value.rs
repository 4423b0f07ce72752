//! Comparing what `expect.toml` asks for with the JSON that came.

use serde_json::Value as Json;
use toml::Value as Toml;

/// Every place where `got` is not what was asked for.
///
/// The string `null` stands for null, `set` for anything but null, `any` for whatever it is; a table with `min` or `max` is
/// a range; any other table asks only for the keys that it names. A list of strings is a set, any other
/// list is compared place by place.
pub fn differences(place: &str, wanted: &Toml, got: &Json) -> Vec<String> {
    let wrong = || vec![format!("{place}: expected {wanted}, got {got}")];
    let equal = match (wanted, got) {
        (Toml::String(word), _) if word == "null" => got.is_null(),
        (Toml::String(word), _) if word == "set" => !got.is_null(),
        (Toml::String(word), _) if word == "any" => true,
        (Toml::String(text), Json::String(other)) => text == other,
        (Toml::Integer(number), _) => got.as_i64() == Some(*number),
        (Toml::Boolean(flag), _) => got.as_bool() == Some(*flag),
        (Toml::Array(items), Json::Array(others)) if items.len() == others.len() => {
            return list_differences(place, items, others);
        }
        (Toml::Table(range), Json::Number(_)) if range.contains_key("min") || range.contains_key("max") => {
            let bound = |key: &str| range.get(key).and_then(Toml::as_integer);
            let number = got.as_i64().unwrap_or(i64::MIN);
            bound("min").is_none_or(|min| number >= min) && bound("max").is_none_or(|max| number <= max)
        }
        (Toml::Table(keys), Json::Object(fields)) => {
            let field = |key: &String| fields.get(key).unwrap_or(&Json::Null);
            return keys
                .iter()
                .flat_map(|(key, value)| differences(&format!("{place}.{key}"), value, field(key)))
                .collect();
        }
        _ => false,
    };
    if equal { Vec::new() } else { wrong() }
}

fn list_differences(place: &str, wanted: &[Toml], got: &[Json]) -> Vec<String> {
    let words: Option<Vec<&str>> = wanted.iter().map(Toml::as_str).collect();
    let others: Option<Vec<&str>> = got.iter().map(Json::as_str).collect();
    if let (Some(mut words), Some(mut others)) = (words, others) {
        words.sort_unstable();
        others.sort_unstable();
        return if words == others { Vec::new() } else { vec![format!("{place}: expected {words:?}, got {others:?}")] };
    }
    wanted
        .iter()
        .zip(got)
        .enumerate()
        .flat_map(|(index, (wanted, got))| differences(&format!("{place}[{index}]"), wanted, got))
        .collect()
}
