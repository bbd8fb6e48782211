//! Which tensors are compressed how.

use std::path::Path;

use glob::Pattern;
use serde::{Deserialize, Serialize};

use super::step::{self, Step};
use super::tensors::is_float;
use super::{NamedTensors, TensorData};
use crate::{DType, Error, Result};

/// A chain of compressors for each tensor of a model, chosen by its name.
///
/// The first rule that matches a tensor applies; a tensor without one is kept as it is. Names are matched by
/// patterns in which `*` stands for any text, `?` for any character and `[a-f]` for one of several.
///
/// ```
/// use taper::model::Recipe;
///
/// let recipe = Recipe::from_toml(
///     r#"
///     seed = 7
///
///     [[rule]]
///     tensors = "*.embeddings.*"
///     chain = [{ product = { split = { width = 4 }, centroids = 256 } }]
///
///     [[rule]]
///     tensors = "*.weight"
///     min_values = 4096
///     chain = [{ svd = { rank = { fraction = 0.25 } } }, { fixed_point = { bits = 4 } }]
///     "#,
/// )?;
/// assert_eq!(recipe.rules.len(), 2);
/// assert_eq!(Recipe::from_json(&recipe.to_json()?)?, recipe);
///
/// let error = Recipe::from_toml("[[rule]]\ntensors = \"*\"\nchain = [{ fixed_point = { bit = 4 } }]").unwrap_err();
/// assert!(error.to_string().starts_with("line 3"), "{error}");
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The seed from which each tensor's own is derived, by its name.
    #[serde(default)]
    pub seed: u64,
    /// The rules, the first that matches first.
    #[serde(default, rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// One rule of a [`Recipe`].
///
/// ```
/// use taper::model::{CompressOptions, NamedTensors, Recipe, Rule};
/// use taper::ndarray::ArrayD;
/// use taper::Precision;
///
/// let weight = ArrayD::from_shape_fn(vec![16, 8], |index| (index[0] * 3 + index[1]) as f32);
/// let model = NamedTensors::from_bytes(NamedTensors::to_bytes([("fc.weight", weight.view())])?)?;
/// let half = Rule { tensors: "*.weight".to_owned(), except: vec!["head.*".to_owned()], min_values: 0, chain: vec![Precision::F16.into()] };
/// let recipe = Recipe { seed: 7, rules: vec![half] };
/// let (_, report) = recipe.compress(&model, &CompressOptions::default())?;
/// assert!(report.rows[0].ratio() > 2.0); // half the bits, and coded
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The pattern of the names.
    pub tensors: String,
    /// Patterns of names that this rule does not match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Tensors of fewer values are not matched.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub min_values: usize,
    /// What is done, in this order. A chain other than `keep` and `dense` matches only tensors of two axes and more; none
    /// but `keep` matches tensors that are not F64, F32, F16, BF16, F8_E4M3 or F8_E5M2. Values of F64 are rounded to F32 before
    /// they are compressed. 8-bit weights with scales and packed integers are kept, see [`NamedTensors::dequantized`].
    ///
    /// [`NamedTensors::dequantized`]: super::NamedTensors::dequantized
    pub chain: Vec<Step>,
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}

/// The pattern of a text.
pub(super) fn pattern(text: &str) -> Result<Pattern> {
    Pattern::new(text).map_err(|error| Error::Recipe {
        line: 0,
        problem: format!("the pattern {text:?}: {}", error.msg),
    })
}

impl Rule {
    /// Whether the rule matches the name of a tensor.
    fn matches(&self, name: &str) -> Result<bool> {
        if !pattern(&self.tensors)?.matches(name) {
            return Ok(false);
        }
        for except in &self.except {
            if pattern(except)?.matches(name) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The line of a byte of a text, from 1.
fn line_of(text: &str, byte: usize) -> usize {
    let before = text.as_bytes().iter().take(byte);
    before.filter(|&&byte| byte == b'\n').count() + 1
}

impl Recipe {
    /// A recipe in TOML.
    ///
    /// # Errors
    ///
    /// [`Error::Recipe`] with the line, [`Error::Unsupported`] for a chain that means nothing.
    pub fn from_toml(text: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text).map_err(|error| Error::Recipe {
            line: error.span().map_or(0, |span| line_of(text, span.start)),
            problem: error.message().to_owned(),
        })?;
        recipe.check()?;
        Ok(recipe)
    }

    /// A recipe in JSON.
    ///
    /// # Errors
    ///
    /// As [`from_toml`](Self::from_toml).
    pub fn from_json(text: &str) -> Result<Self> {
        let recipe: Self = serde_json::from_str(text).map_err(|error| Error::Recipe {
            line: error.line(),
            problem: error.to_string(),
        })?;
        recipe.check()?;
        Ok(recipe)
    }

    /// A recipe in a file: JSON where its name ends in `.json`, else TOML.
    ///
    /// # Errors
    ///
    /// [`Error::File`], and as [`from_toml`](Self::from_toml).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| Error::file(path, error))?;
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("json") => Self::from_json(&text),
            _ => Self::from_toml(&text),
        }
    }

    /// The recipe in TOML.
    ///
    /// # Errors
    ///
    /// [`Error::Recipe`] for what TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::Recipe {
            line: 0,
            problem: error.to_string(),
        })
    }

    /// The recipe in JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Recipe`] for numbers that JSON cannot hold.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|error| Error::Recipe {
            line: 0,
            problem: error.to_string(),
        })
    }

    /// Errs for patterns and chains that mean nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Recipe`] for a pattern, and [`Error::InRule`] for a chain.
    pub fn check(&self) -> Result<()> {
        for rule in &self.rules {
            for text in std::iter::once(&rule.tensors).chain(&rule.except) {
                pattern(text)?;
            }
            step::check_chain(&rule.chain).map_err(|error| Error::InRule {
                tensors: rule.tensors.clone(),
                source: Box::new(error),
            })?;
        }
        Ok(())
    }

    /// Whether a chain that changes tensors is meant for this name.
    pub(super) fn would_change(&self, name: &str) -> Result<bool> {
        for rule in &self.rules {
            if rule.matches(name)? {
                return Ok(!step::keeps(&rule.chain));
            }
        }
        Ok(false)
    }

    /// What is done to a tensor; nothing where no rule matches.
    ///
    /// # Errors
    ///
    /// [`Error::Recipe`] for a pattern that means nothing.
    pub fn chain(&self, name: &str, tensor: &TensorData<'_>) -> Result<&[Step]> {
        let rule = self.rule_for(name, tensor.dtype, &tensor.shape)?;
        Ok(rule.map_or(&[], |rule| &self.rules[rule].chain))
    }

    /// The place of the rule for a tensor in the list.
    fn rule_for(&self, name: &str, dtype: DType, shape: &[usize]) -> Result<Option<usize>> {
        let values = shape.iter().try_fold(1_usize, |n, &m| n.checked_mul(m));
        for (place, rule) in self.rules.iter().enumerate() {
            let fits = step::keeps(&rule.chain)
                || (is_float(dtype)
                    && values != Some(0)
                    && (shape.len() >= 2 || !step::needs_matrix(&rule.chain)));
            let large = values.is_none_or(|values| values >= rule.min_values);
            if fits && large && rule.matches(name)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// A note for each rule that is used for no tensor of the model, and for each exception that matches none: a name may be
    /// misspelled.
    pub(super) fn without_effect(&self, input: &NamedTensors) -> Result<Vec<String>> {
        let mut used = vec![false; self.rules.len()];
        for (name, place) in &input.tensors {
            if let Some(rule) = self.rule_for(name, place.info.dtype, &place.info.shape)? {
                used[rule] = true;
            }
        }
        let matched = |text: &str| {
            let pattern = pattern(text)?;
            Ok::<_, Error>(input.names().any(|name| pattern.matches(name)))
        };
        let mut notes = Vec::new();
        for ((number, rule), used) in (1..).zip(&self.rules).zip(used) {
            let tensors = &rule.tensors;
            if !matched(tensors)? {
                notes.push(format!("rule {number}, {tensors:?}, matches no tensor"));
            } else if !used {
                notes.push(format!(
                    "rule {number}, {tensors:?}, is used for no tensor: those that it matches have an earlier rule, are exceptions, \
                     or have fewer values or axes than it asks for"
                ));
            }
            for except in &rule.except {
                if !matched(except)? {
                    notes.push(format!(
                        "rule {number}, {tensors:?}: the exception {except:?} matches no tensor"
                    ));
                }
            }
        }
        Ok(notes)
    }
}
