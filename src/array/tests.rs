use super::*;

fn array(dtype: &str, shape: &[usize], bytes: usize) -> Array {
    Array { dtype: dtype.to_owned(), shape: shape.to_vec(), data: vec![0; bytes].into() }
}

#[test]
fn elements_come_back_as_they_were() {
    fn same<T: Element + PartialEq + fmt::Debug>(elements: &[T]) {
        let array = Array::from_slice([elements.len()], elements).unwrap();
        assert_eq!(array.to_vec::<T>().unwrap(), elements, "{array:?}");
    }
    same(&[true, false]);
    same(&[i8::MIN, 0, i8::MAX]);
    same(&[i16::MIN, 1, i16::MAX]);
    same(&[i32::MIN, 1, i32::MAX]);
    same(&[i64::MIN, 1, i64::MAX]);
    same(&[u8::MAX, 1]);
    same(&[u16::MAX, 1]);
    same(&[u32::MAX, 1]);
    same(&[u64::MAX, 1]);
    same(&[f32::MIN, 1.5, f32::INFINITY]);
    same(&[f64::MIN, 1.5, f64::NEG_INFINITY]);
    same::<f64>(&[]);
    assert_eq!(Array::from_slice(vec![], &[5_i64]).unwrap().to_vec::<i64>().unwrap(), [5]);
    assert_eq!(Array::from_slice([1], &[0x0102_u16]).unwrap().data[..], [2, 1]);
}

#[test]
fn shape_and_data_must_agree() {
    for (dtype, shape, bytes) in [
        ("<f8", &[2, 3][..], 48),
        ("<f8", &[], 8),
        ("<f8", &[0, usize::MAX, usize::MAX], 0),
        ("|b1", &[3], 3),
        ("<c16", &[2], 32),
        ("<f2", &[2], 4),
        ("<M8[ns]", &[1], 8),
        ("<m8", &[1], 8),
        ("<U3", &[2], 24),
        ("|S5", &[2], 10),
        ("|S0", &[2], 0),
    ] {
        assert_eq!(array(dtype, shape, bytes).check(), Ok(()), "{dtype} {shape:?}");
        let wrong = array(dtype, shape, bytes + 1).check();
        assert!(matches!(wrong, Err(ArrayError::Shape { .. })), "{dtype} {shape:?}: {wrong:?}");
    }
    for shape in [&[usize::MAX][..], &[1 << 32, 1 << 32], &[7]] {
        assert!(matches!(array("<f8", shape, 8).check(), Err(ArrayError::Shape { .. })));
    }
    assert_eq!(array("|u1", &[1; 65], 1).check(), Err(ArrayError::Dimensions { found: 65 }));
    let error = Array::from_slice([2, 2], &[1.0]).unwrap_err().to_string();
    assert_eq!(error, "8 bytes are no array of dtype <f8 and shape [2, 2]");
}

#[test]
fn a_dtype_that_does_not_travel_is_named() {
    for dtype in [
        "",
        "<",
        "f8",
        "|O",
        "|O8",
        "|V8",
        "<f",
        "<f3",
        "<f08",
        "<f-8",
        "|f8",
        "=f8",
        "<i16",
        "<U4294967296",
        "<U99999999999999999999",
        "[('a', '<i4')]",
        "<M",
        "é8",
    ] {
        let found = array(dtype, &[1], 8).check();
        assert!(
            matches!(&found, Err(ArrayError::Unsupported { found }) if found == dtype),
            "{dtype}: {found:?}"
        );
    }
    for dtype in [">f8", ">i2", ">U3"] {
        let error = array(dtype, &[1], 8).check().unwrap_err();
        assert_eq!(error, ArrayError::ByteOrder { found: dtype.to_owned() });
        assert!(error.to_string().contains("newbyteorder"), "{error}");
    }
}

#[test]
fn elements_of_another_type_are_not_given_out() {
    let error = Array::from_slice([1], &[1.0_f64]).unwrap().to_vec::<f32>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the array's dtype is <f8, not <f4: convert it in Python, `array.astype(\"<f4\")`"
    );
    assert!(matches!(array(">f8", &[1], 8).to_vec::<f64>(), Err(ArrayError::ByteOrder { .. })));
    assert!(matches!(array("<f8", &[2], 8).to_vec::<f64>(), Err(ArrayError::Shape { .. })));
}

#[test]
fn an_array_is_a_value_of_a_session_and_back() {
    let array = Array::from_slice([2], &[1.0, 2.0]).unwrap();
    let value = Value::from(array.clone());
    assert_eq!(Array::try_from(value).unwrap(), array);
    assert!(Array::try_from(Value::Bytes(Bytes::new())).is_err());
    assert!(
        Array::try_from(Value::Array {
            dtype: ">f8".into(),
            shape: vec![1],
            data: vec![0; 8].into()
        })
        .is_err()
    );
}
