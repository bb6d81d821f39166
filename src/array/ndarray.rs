//! To and from the arrays of the `ndarray` crate.

use ndarray::{ArrayBase, ArrayD, Data, Dimension, IxDyn};

use super::{Array, ArrayError, Element};

/// Copies the elements once, in C order whatever the layout.
impl<T: Element, S: Data<Elem = T>, D: Dimension> From<&ArrayBase<S, D>> for Array {
    fn from(array: &ArrayBase<S, D>) -> Self {
        let shape = array.shape().to_vec();
        let data = match array.as_slice() {
            Some(elements) => T::to_bytes(elements),
            None => T::to_bytes(&array.iter().copied().collect::<Vec<_>>()),
        };
        Self { dtype: T::DTYPE.to_owned(), shape, data: data.into() }
    }
}

impl Array {
    /// The same as an array of the `ndarray` crate (feature `ndarray`); the elements are copied once.
    ///
    /// `into_dimensionality` makes one of a fixed number of dimensions of it.
    ///
    /// # Errors
    ///
    /// Those of [`Array::to_vec`].
    pub fn to_ndarray<T: Element>(&self) -> Result<ArrayD<T>, ArrayError> {
        let elements = self.to_vec()?;
        ArrayD::from_shape_vec(IxDyn(&self.shape), elements).map_err(|_| ArrayError::Shape {
            dtype: self.dtype.clone(),
            shape: self.shape.clone(),
            bytes: self.data.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Ix2, array};

    use super::*;

    #[test]
    fn arrays_go_there_and_back_in_whatever_layout() {
        let matrix = array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
        let ours = Array::from(&matrix);
        assert_eq!((ours.dtype.as_str(), &ours.shape[..]), ("<f8", &[2, 3][..]));
        let same: Array2<f64> = ours.to_ndarray().unwrap().into_dimensionality::<Ix2>().unwrap();
        assert_eq!(same, matrix);
        let turned = Array::from(&matrix.t());
        assert_eq!(turned.to_vec::<f64>().unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(turned.to_ndarray::<f64>().unwrap(), matrix.t().into_dyn());
        let single = Array::from(&ndarray::arr0(7_u16));
        assert_eq!(single.to_ndarray::<u16>().unwrap(), ndarray::arr0(7).into_dyn());
        let none = Array::from(&Array2::<i8>::zeros((0, 3)));
        assert_eq!(none.to_ndarray::<i8>().unwrap().shape(), [0, 3]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let ours = Array::from(&array![1.0_f32, 2.0]);
        assert!(matches!(ours.to_ndarray::<f64>(), Err(ArrayError::Dtype { .. })));
        let huge = Array { shape: vec![0, usize::MAX], data: Default::default(), ..ours };
        assert!(matches!(huge.to_ndarray::<f32>(), Err(ArrayError::Shape { .. })));
    }
}
